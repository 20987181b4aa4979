"""The largest tolerance that costs next to nothing is taken."""

from slmops.build.tolerance import GROWTH, UNSEEN, Reused, Tried


def tried(*losses, own=0.1):
    return Reused("m:1", own, tuple(Tried(n / 10, n / 10, loss) for n, loss in enumerate(losses)))


def test_the_largest_that_is_bearable_is_taken():
    bearable = 0.1 * (1 + GROWTH)
    assert tried(0.1, bearable, bearable * 1.01).taken.tolerance == 0.1
    assert tried(0.1, bearable * 1.01, bearable).taken.tolerance == 0.2


def test_what_nobody_would_see_is_bearable_whatever_its_share():
    assert tried(2e-5, 1e-5 + UNSEEN / 2, own=1e-5).taken.tolerance == 0.1


def test_where_every_tolerance_costs_too_much_scales_are_its_own():
    found = tried(0.2, 0.3)
    assert found.taken is None
    assert found.figures()["taken"] is None
    assert "no scales of m:1" in found.words


def test_it_says_what_was_taken_and_what_it_cost():
    found = tried(0.1, 0.101)
    assert (
        found.words
        == "10.0% of its weights reuse the scales of m:1 (tolerance 10%): divergence 0.101, without 0.1"
    )
    assert found.figures()["taken"] == 0.1
    assert found.taken.figures(0.1) == {
        "reused_share": 0.1, "reuse_tolerance": 0.1, "kl_mean_own_scales": 0.1,
    }  # fmt: skip
