import enum
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, model_validator

from slmops.document import MOST_PROBLEMS, dumps, load, loads
from slmops.errors import DocumentError
from slmops.fault import fault


class Forbidding(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Host(Forbidding):
    address: str
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    labels: dict[str, str] = {}
    enabled: bool = True
    weight: float = 1.0
    color: Color = Color.RED
    kind: Literal["pi", "nano"] = "pi"


class Fleet(Forbidding):
    name: str
    hosts: dict[str, Host]
    waves: tuple[int | str, ...] = ()
    jump: Host | None = None
    extra: list[Host] = []

    @model_validator(mode="after")
    def no_address_twice(self) -> "Fleet":
        seen: dict[str, int] = {}
        for index, host in enumerate(self.extra):
            if host.address in seen:
                raise fault(
                    f"the address {host.address} is that of extra[{seen[host.address]}] too",
                    "extra",
                    index,
                    "address",
                )
            seen[host.address] = index
        return self


def read(text: str) -> Fleet:
    return loads(text, Fleet, "fleet.yaml")


def problems(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        read(text)
    return str(caught.value).splitlines()


def test_a_good_document_is_read_as_its_model():
    fleet = read(
        "name: shop\nhosts:\n  kitchen: {address: 10.0.0.1, port: 2222, color: blue}\nwaves: [1, 50%]\n"
    )

    assert fleet.hosts["kitchen"] == Host(address="10.0.0.1", port=2222, color=Color.BLUE)
    assert fleet.waves == (1, "50%")


def test_a_wrong_type_names_file_line_key_and_what_stands_there():
    assert problems("name: shop\nhosts:\n  kitchen:\n    address: a\n    port: abc\n") == [
        "fleet.yaml, line 5: hosts.kitchen.port: expected an integer, got 'abc'"
    ]


def test_all_problems_are_told_at_once_in_the_order_of_lines():
    text = """\
name: 12
hosts:
  kitchen:
    adress: 10.0.0.1
    port: 99999
  hall:
    address: [a]
    port: "22"
    enabled: on
    weight: heavy
    color: green
    kind: mars
    labels: none
  cellar: 7
  attic:
wave: [1]
"""
    assert problems(text) == [
        "fleet.yaml, line 1: name: expected text, got 12; put it in quotes",
        "fleet.yaml, line 3: hosts.kitchen.address: missing key",
        "fleet.yaml, line 4: hosts.kitchen.adress: unknown key; did you mean 'address'?",
        "fleet.yaml, line 5: hosts.kitchen.port: expected at most 65535, got 99999",
        "fleet.yaml, line 7: hosts.hall.address: expected text, got a list",
        "fleet.yaml, line 8: hosts.hall.port: expected an integer, got '22'",
        "fleet.yaml, line 9: hosts.hall.enabled: expected true or false, got 'on'",
        "fleet.yaml, line 10: hosts.hall.weight: expected a number, got 'heavy'",
        "fleet.yaml, line 11: hosts.hall.color: expected 'red' or 'blue', got 'green'",
        "fleet.yaml, line 12: hosts.hall.kind: expected 'pi' or 'nano', got 'mars'",
        "fleet.yaml, line 13: hosts.hall.labels: expected a mapping, got 'none'",
        "fleet.yaml, line 14: hosts.cellar: expected a mapping, got 7",
        "fleet.yaml, line 15: hosts.attic: expected a mapping, got nothing",
        "fleet.yaml, line 16: wave: unknown key; did you mean 'waves'?",
    ]


def test_an_unknown_key_with_no_near_one_lists_the_known_ones():
    (problem,) = problems("name: a\nhosts: {}\njump: {address: b, zzz: 1}\n")
    known = "address, port, labels, enabled, weight, color, kind"

    assert problem == f"fleet.yaml, line 3: jump.zzz: unknown key; expected one of {known}"


def test_a_missing_key_at_the_top_is_blamed_on_the_first_line():
    assert problems("# comment\nhosts: {}\n") == ["fleet.yaml, line 2: name: missing key"]


def test_a_union_says_all_it_would_take_in_one_problem():
    assert problems("name: a\nhosts: {}\nwaves:\n  - 1\n  - {}\n") == [
        "fleet.yaml, line 5: waves[1]: expected an integer or text, got a mapping"
    ]


def test_a_duplicate_key_is_refused_together_with_the_other_problems():
    assert problems("name: a\nhosts:\n  k: {address: x}\n  k: {address: y}\nname: 3\nport: 1\n") == [
        "fleet.yaml, line 4: hosts.k: duplicate key; line 3 has it already",
        "fleet.yaml, line 5: name: duplicate key; line 1 has it already",
        "fleet.yaml, line 6: port: unknown key; expected one of name, hosts, waves, jump, extra",
    ]


def test_a_duplicate_key_alone_is_refused():
    assert problems("name: a\nhosts: {}\nhosts: {}\n") == [
        "fleet.yaml, line 3: hosts: duplicate key; line 2 has it already"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: a\nhosts:\n\tk: {address: x}\n", 3),
        ("name: a\nhosts:\n  k:\n  \taddress: x\n", 4),
        ("name: a\n\thosts: {}\n", 2),
    ],
)
def test_a_tab_is_named_as_what_it_is(text: str, line: int):
    (problem,) = problems(text)

    assert problem.startswith(f"fleet.yaml, line {line}: a tab before ")
    assert problem.endswith("YAML is indented with spaces")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: a\nhosts: {k: {address: x}\n", 3),
        ("name: a\nhosts:\n - a\n k: 1\n", 4),
        ('name: "a\nhosts: {}\n', 3),
        ("name: *nobody\n", 1),
        ("name: a\n---\nname: b\n", 2),
        ("name: a\nhosts: @x\n", 2),
    ],
)
def test_what_is_not_yaml_names_its_line(text: str, line: int):
    (problem,) = problems(text)

    assert problem.startswith(f"fleet.yaml, line {line}: not YAML")


def test_a_control_character_names_its_line():
    assert problems("name: a\nhosts: \x07\n") == ["fleet.yaml, line 2: character '\\x07' is not allowed"]


def test_plain_words_that_yaml_1_1_would_change_stay_text():
    said = ["on", "no", "yes", "off", "y", "1:20", "2024-01-01", "1_000", "0b1", "=", ".inf", ".nan"]
    text = "name: a\nhosts:\n  k:\n    address: a\n    labels:\n" + "".join(
        f"      l{index}: {word}\n" for index, word in enumerate(said)
    )

    assert list(read(text).hosts["k"].labels.values()) == said


def test_keys_are_text_however_they_look():
    assert set(read("name: a\nhosts:\n  1: {address: a}\n  on: {address: b}\n").hosts) == {"1", "on"}


def test_numbers_are_those_of_yaml_1_2():
    text = "name: a\nhosts:\n  a: {address: a, port: 010}\n  b: {address: b, port: 0x10, weight: 1e3}\n"

    assert read(text).hosts["a"].port == 10
    assert read(text).hosts["b"].port == 16
    assert read(text).hosts["b"].weight == 1000.0


def test_a_number_too_large_is_refused():
    assert problems("name: a\nhosts:\n  k:\n    address: a\n    weight: 1e999\n")[0].startswith(
        "fleet.yaml, line 5: hosts.k.weight: cannot read '1e999'"
    )
    assert (
        "line 2: hosts.k.port: expected int, got '9999"
        in problems("name: a\nhosts: {k: {address: a, port: " + "9" * 5000 + "}}\n")[0]
    )


def test_anchors_and_merge_keys_work_and_top_level_x_keys_are_left_alone():
    text = """\
x-base: &base
  port: 2222
  labels: {site: lyon}
x-any: [1, {deep: true}]
name: a
hosts:
  k:
    <<: *base
    address: a
    port: 23
  l:
    <<: [*base, {address: b, port: 24}]
"""
    hosts = read(text).hosts

    assert hosts["k"] == Host(address="a", port=23, labels={"site": "lyon"})
    assert hosts["l"] == Host(address="b", port=2222, labels={"site": "lyon"})


def test_a_problem_in_what_is_merged_is_blamed_where_it_stands():
    assert problems(
        "x-base: &base\n  port: many\nname: a\nhosts:\n  k:\n    <<: *base\n    address: a\n"
    ) == ["fleet.yaml, line 2: hosts.k.port: expected an integer, got 'many'"]


def test_x_keys_are_unknown_below_the_top():
    assert problems("name: a\nhosts:\n  k: {address: a, x-note: b}\n")[0].startswith(
        "fleet.yaml, line 3: hosts.k.x-note: unknown key"
    )


def test_a_document_that_holds_itself_is_refused():
    assert "holds itself by an alias" in problems("name: a\nhosts: {}\nwaves: &w [1, *w]\n")[0]
    assert problems("name: a\nhosts: &h\n  k:\n    <<: *h\n    address: x\n") == [
        "fleet.yaml, line 4: hosts.k.<<: expected a mapping to merge, got what it stands in"
    ]


def test_aliases_that_explode_are_refused():
    lines = ["x-0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x-{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]" for n in range(1, 8)]

    assert "aliases expand to more than" in problems("\n".join([*lines, "name: *x7", "hosts: {}"]))[0]

    lines = ["x-0: &x0 {a: 1}"]
    lines += [f"x-{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 10)}]}}" for n in range(1, 8)]

    assert "aliases expand to more than" in problems("\n".join([*lines, "name: a", "hosts: {<<: *x7}"]))[0]


def test_a_document_nested_too_deeply_is_refused():
    assert problems("name: " + "[" * 5000) == ["fleet.yaml: nested too deeply"]


def test_tags_of_other_languages_are_refused():
    assert "cannot read 'os.system'" in problems("name: !!python/name os.system\nhosts: {}\n")[0]


def test_a_lone_surrogate_is_refused():
    assert problems('name: "\\ud800"\nhosts: {}\n')[0].startswith(
        "fleet.yaml, line 1: name: expected str, got"
    )


@pytest.mark.parametrize(
    ("text", "got"), [("- a\n- b\n", "a list"), ("hello\n", "'hello'"), ("7\n", "7"), ("~\n", "nothing")]
)
def test_what_is_not_a_mapping_is_refused(text: str, got: str):
    assert problems(text) == [f"fleet.yaml, line 1: expected a mapping (key: value), got {got}"]


@pytest.mark.parametrize("text", ["", "# nothing but words\n"])
def test_an_empty_document_says_what_it_could_hold(text: str):
    assert problems(text) == [
        "fleet.yaml: the document is empty; expected keys name, hosts, waves, jump, extra"
    ]


def test_a_validator_of_the_model_can_blame_a_key_below_it():
    assert problems("name: a\nhosts: {}\nextra:\n  - address: x\n  - address: y\n  - address: x\n") == [
        "fleet.yaml, line 6: extra[2].address: the address x is that of extra[0] too"
    ]


def test_more_problems_than_anyone_reads_are_counted():
    told = problems("name: a\nhosts: {}\n" + "".join(f"k{n}: 1\n" for n in range(50)))

    assert told[-1] == f"... and {50 - MOST_PROBLEMS} more"
    assert len(told) == MOST_PROBLEMS + 1


def test_a_file_that_is_not_there_is_a_document_error(tmp_path: Path):
    with pytest.raises(DocumentError, match=r"gone\.yaml: no such file"):
        load(tmp_path / "gone.yaml", Fleet)


def test_a_file_that_is_not_utf8_names_the_line_of_the_byte(tmp_path: Path):
    path = tmp_path / "fleet.yaml"
    path.write_bytes("name: a\nhosts: {k: {address: café}}\n".encode("latin-1"))

    with pytest.raises(DocumentError, match=r"fleet\.yaml, line 2: expected UTF-8 text, got byte 0xe9"):
        load(path, Fleet)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path):
    path = tmp_path / "fleet.yaml"
    path.write_bytes("\ufeffname: a\nhosts: {}\n".encode())

    assert load(path, Fleet).name == "a"


def test_lines_are_right_in_files_with_carriage_returns():
    assert problems("name: a\r\nhosts:\r\n  k:\r\n    address: 3\r\n")[0].startswith("fleet.yaml, line 4:")


@given(
    st.dictionaries(st.text(min_size=1), st.builds(Host, address=st.text(), port=st.integers(1, 65535))),
    st.text(),
)
def test_what_is_written_is_read_back(hosts: dict[str, Host], name: str):
    fleet = Fleet(name=name, hosts=hosts)

    assert read(dumps(fleet)) == fleet


@pytest.mark.parametrize(
    "name", ["1e3", "0o17", "010", "on", "1:20", "~", "3.11", "<<", "x-a", "", "a: b", "#"]
)
def test_text_that_looks_like_something_else_is_written_in_quotes(name: str):
    fleet = Fleet(name=name, hosts={name: Host(address=name)})

    assert read(dumps(fleet)) == fleet


@given(st.text(alphabet="ab:-[]{}&*<!|>#'\"\n\t 0.1x,"))
def test_no_text_breaks_the_reader_otherwise_than_by_a_document_error(text: str):
    with suppress(DocumentError):
        read(text)
