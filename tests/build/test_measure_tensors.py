"""What rounding one matrix alone costs, and what comes of it when types are mixed by that."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, dequantize

from slmops.build import measure_tensors as room
from slmops.build.ggml import Quantizer
from slmops.build.importance import Importance
from slmops.build.isolate import silent
from slmops.build.measure import measure_many
from slmops.build.measure_tensors import TYPES, measure_tensors, options_of
from slmops.build.mix import mix
from slmops.build.open_model import TorchModel
from slmops.build.quantize_gguf import plan_gguf, write_all
from slmops.build.reference import load_reference
from slmops.build.scheme import GGML_TYPES, is_matrix, padded

NOISE = 1e-6
"""Nats that a divergence of next to nothing is off by."""
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}


@pytest.fixture
def tiny(random_checkpoint):
    return random_checkpoint(**SIZES, alive=True)


def matrices(checkpoint):
    return {t.name: t for t in plan_gguf(checkpoint, "F32").tensors if is_matrix(t.name, t.shape)}


def fixed(checkpoint):
    """Return the type of what is never rounded."""
    return {
        tensor.name: "F32"
        for tensor in plan_gguf(checkpoint, "F32").tensors
        if not is_matrix(tensor.name, tensor.shape)
    }


@pytest.mark.parametrize(("columns", "block"), [(512, 256), (768, 256), (64, 32), (96, 32), (172, 1)])
def test_a_matrix_may_have_the_types_whose_blocks_divide_its_rows(columns, block):
    assert options_of(columns) == block
    assert all(columns % GGML_TYPES[name].block == 0 for name in TYPES[block])


@pytest.mark.journey
def test_every_matrix_has_options_and_fewer_bits_lose_more_and_mixes_keep_their_promise(tiny, tmp_path):
    heard = []
    options = measure_tensors(tiny, None, progress=lambda *said: heard.append(said))

    assert {said for said, _ in heard} >= {"loading the source model", "writing text to try types on"}
    assert options.keys() == matrices(tiny).keys()
    for name, tensor in matrices(tiny).items():
        found = {option.type: option for option in options[name]}
        assert tuple(found) == TYPES[32]
        sizes = {kind: padded(GGML_TYPES[kind].size(tensor.shape)) for kind in found}
        assert {kind: option.nbytes for kind, option in found.items()} == sizes
        losses = [found[kind].loss for kind in ("F16", "Q8_0", "Q5_0", "Q4_0")]
        assert np.isfinite(losses).all()
        assert losses[0] < NOISE
        assert losses[1] < losses[2] < losses[3]

    # A step at a time from the smallest types to the largest: the real models lose ever less.
    least = sum(min(option.nbytes for option in each) for each in options.values())
    most = sum(max(option.nbytes for option in each) for each in options.values())
    mixes = [mix(options, least + (most - least) * part // 3) for part in range(4)]
    plans = {
        tmp_path / f"{n}.gguf": plan_gguf(tiny, "MIXED", {**fixed(tiny), **found.types})
        for n, found in enumerate(mixes)
    }
    write_all(tiny, plans)
    measured = [each.kl_mean for each in measure_many(tiny, list(plans), tokens=256)]
    predicted = [found.loss for found in mixes]
    assert predicted == sorted(predicted, reverse=True)
    assert measured == sorted(measured, reverse=True)
    for loss, kl in zip(predicted[:2], measured[:2], strict=True):
        assert loss / 3 < kl < 3 * loss


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_each_loss_is_that_of_one_rounded_matrix_in_a_model_that_is_whole_again(
    random_checkpoint, architecture
):
    checkpoint = random_checkpoint(architecture, **SIZES, alive=True)
    found = room._try_all(silent, checkpoint, None)

    # The same by hand, on the same text: the first matrix, a square one that may lie on its side, and the
    # last, before which all others were tried.
    reference = load_reference(checkpoint, lambda _: None)
    model, weights = TorchModel(reference), dict(reference.named_parameters())
    texts = list(room._texts(model, checkpoint, 512, silent))
    exact = [room._read(model, ids) for ids in texts]
    for name in (next(iter(found)), "blk.0.attn_output.weight", list(found)[-1]):
        tensor = matrices(checkpoint)[name]
        weight = weights[tensor.source]
        kept = weight.detach().clone()
        rows = kept.numpy().T if tensor.transposed else kept.numpy()
        with Quantizer() as quantizer, torch.no_grad():
            raw = quantizer("Q4_0", np.ascontiguousarray(rows))
            rounded = dequantize(raw, GGMLQuantizationType.Q4_0).reshape(rows.shape)
            weight.copy_(torch.from_numpy(np.ascontiguousarray(rounded.T if tensor.transposed else rounded)))
            loss = room._loss(model, texts, exact)
            weight.copy_(kept)
        said = {option.type: option.loss for option in found[name]}
        assert said["Q4_0"] == pytest.approx(loss, rel=1e-3)


def test_importance_weighs_the_rounding_here_as_in_the_file(tiny):
    dice = np.random.default_rng(3)
    columns = {
        t.source: np.exp(2 * dice.standard_normal(t.shape[-1])).astype(np.float32)
        for t in matrices(tiny).values()
    }
    weighed = room._try_all(silent, tiny, Importance(columns, "sha256:text", 1, 1))
    plain = room._try_all(silent, tiny, None)

    name = "blk.0.ffn_up.weight"
    of = [{option.type: option.loss for option in each[name]} for each in (weighed, plain)]
    assert of[0]["Q4_0"] != of[1]["Q4_0"]
    assert of[0]["Q8_0"] == of[1]["Q8_0"]


def test_where_one_type_is_tried_the_others_follow_from_their_rounding_errors(tiny):
    reference = load_reference(tiny, lambda _: None)
    model = TorchModel(reference)
    texts = list(room._texts(model, tiny, 256, silent))
    exact = [room._read(model, ids) for ids in texts]
    tensor = matrices(tiny)["blk.0.ffn_down.weight"]
    weight = dict(reference.named_parameters())[tensor.source]
    with Quantizer() as quantizer, torch.no_grad():
        rounding = room._Rounding(weight, tensor, None, quantizer)
        tried, guessed = (
            room._options(rounding, TYPES[32], probed, lambda: room._loss(model, texts, exact))
            for probed in (TYPES[32], ("Q4_0",))
        )

    assert guessed[-1] == tried[-1]
    for one, other in zip(tried, guessed, strict=True):
        assert (one.type, one.nbytes) == (other.type, other.nbytes)
        assert other.loss == pytest.approx(one.loss, rel=0.5, abs=NOISE)
