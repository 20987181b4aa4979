"""Conversations and prompts into token ids."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmops.daemon.chat import MARKS, ChatTemplate, chat_ids, completion_ids
from slmops.daemon.refusal import RefusedError
from slmops.daemon.text import JsonVocabulary
from slmops.errors import ModelError

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SPECIAL = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
FRAGMENTS = ["<|end|>", "<|assistant|>", "<|", "end", "|>", "\ufdd0", "é", " "]
strangers = st.lists(st.sampled_from(FRAGMENTS)).map("".join)
TEMPLATES = {
    "chatml": """\
{% for m in messages %}
{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "alternating": """\
{{ bos_token }}{% for m in messages %}
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif %}
[{{ m.role }}] {{ m.content | trim }}{{ eos_token }}{% endfor %}""",
    "statements": """\
{%- for m in messages %}
  {%- if loop.first %}
    {% set lead = m.content %}
  {%- endif %}
{{ m | tojson }}{% if loop.index == 2 %}{% break %}{% endif %}
{% endfor %}
{% if tools %}tools{% endif %}{{ lead }}""",
    "trained": """\
{% for m in messages %}
{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}
{% endif %}{% endfor %}""",
}


@pytest.fixture(scope="module")
def vocabulary(tiny):
    return JsonVocabulary(tiny.make_tokenizer()[0].to_str(), "<|begin|>")


@pytest.fixture
def template(tiny):
    return ChatTemplate(tiny.TEMPLATE, SPECIAL)


def user(content):
    return [{"role": "user", "content": content}]


@pytest.fixture
def framed(vocabulary):
    """The ids of a user's one turn, between what the template puts around it."""
    begin, end, user, assistant = (vocabulary.controls[name] for name in vocabulary.controls)
    return lambda ids: [begin, user, *ids, end, assistant]


@pytest.fixture(scope="module")
def module_template(tiny):
    return ChatTemplate(tiny.TEMPLATE, SPECIAL)


@given(content=strangers)
def test_no_text_in_a_message_becomes_a_control_token(vocabulary, module_template, content):
    ids = chat_ids(vocabulary, module_template, user(content), NOW)
    controls = [number for number in ids if number in vocabulary.controls.values()]
    assert controls == [0, 2, 1, 3]
    assert vocabulary.decode(ids) == content.strip()


def test_who_says_every_sign_there_is_to_mark_with_is_refused(vocabulary, template):
    with pytest.raises(RefusedError) as refused:
        chat_ids(vocabulary, template, user("".join(["<|end|>", *MARKS])), NOW)
    assert (refused.value.status, refused.value.param) == (400, "messages")


def test_a_message_is_read_as_the_whole_text_is(vocabulary, template, framed):
    plain = vocabulary.encode("is it on?", begin=False, controls=False)
    assert chat_ids(vocabulary, template, user(" is it on? "), NOW) == framed(plain)


def test_a_template_may_refuse(vocabulary, template):
    with pytest.raises(RefusedError, match="no system turns") as refused:
        chat_ids(vocabulary, template, [{"role": "system", "content": "x"}], NOW)
    assert refused.value.status == 400


def test_a_template_that_does_not_parse_is_an_error():
    with pytest.raises(ModelError, match="line 2"):
        ChatTemplate("\n{% if %}", SPECIAL)


def test_a_template_cannot_reach_out_of_its_sandbox(vocabulary):
    template = ChatTemplate("{{ messages.__class__.__base__.__subclasses__() }}", SPECIAL)
    with pytest.raises(RefusedError):
        chat_ids(vocabulary, template, user("x"), NOW)


def test_a_template_may_ask_for_the_date():
    assert ChatTemplate("{{ strftime_now('%d %b %Y') }}", SPECIAL).render([], NOW) == "02 Jan 2026"


TOOLS = (
    "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}<|{{ 'user' if m.role == 'tool' else m.role }}|>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|end|>{% endfor %}<|assistant|>"
)
LAMP = {"type": "function", "function": {"name": "lamp", "description": "", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "lamp", "arguments": {"on": True}}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}


def test_a_template_says_whether_it_knows_tools_and_how_calls_are_written(tiny):
    plain, tools = ChatTemplate(tiny.TEMPLATE, SPECIAL), ChatTemplate(TOOLS, SPECIAL)
    assert (plain.knows_tools, plain.tagged, tools.knows_tools, tools.tagged) == (False, False, True, True)


def test_tools_and_calls_reach_a_template_that_knows_them(vocabulary):
    said = ChatTemplate(TOOLS, SPECIAL).render([*user("x"), CALLED], NOW, [LAMP])
    assert '"name": "lamp"' in said
    assert '<tool_call>{"name": "lamp", "arguments": {"on": true}}</tool_call>' in said
    ids = chat_ids(vocabulary, ChatTemplate(TOOLS, SPECIAL), [*user("x"), CALLED], NOW, [LAMP])
    assert ids == vocabulary.encode(said, begin=False, controls=True)


@pytest.mark.parametrize(
    ("messages", "tools", "param"), [(user("x"), [LAMP], "tools"), ([CALLED], [], "messages")]
)
def test_a_template_that_knows_no_tools_is_not_given_any(vocabulary, template, messages, tools, param):
    with pytest.raises(RefusedError, match="knows no tools") as refused:
        chat_ids(vocabulary, template, messages, NOW, tools)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_what_is_nested_too_deep_is_refused(vocabulary):
    deep = {}
    for _ in range(2000):
        deep = {"a": deep}
    call = {"id": "c", "type": "function", "function": {"name": "lamp", "arguments": deep}}
    with pytest.raises(RefusedError, match="too deep"):
        chat_ids(vocabulary, ChatTemplate(TOOLS, SPECIAL), [{**CALLED, "tool_calls": [call]}], NOW)


@given(said=strangers, name=strangers, escaped=st.booleans())
def test_no_text_in_a_tool_or_a_call_becomes_a_control_token(vocabulary, said, name, escaped):
    template = ChatTemplate(
        TOOLS.replace("tojson", "tojson(ensure_ascii=true)") if escaped else TOOLS, SPECIAL
    )
    function = {"name": "lamp", "description": said, "parameters": {"type": said, "properties": {name: said}}}
    call = {"id": said, "type": "function", "function": {"name": said, "arguments": {name: [said]}}}
    messages = [{"role": "assistant", "content": said, "tool_calls": [call]}]
    tools = [{"type": "function", "function": function}]
    ids = chat_ids(vocabulary, template, messages, NOW, tools)
    controls = [number for number in ids if number in vocabulary.controls.values()]
    assert controls == [3, 1, 3]
    plain = template.render(messages, NOW, tools)
    for control in ("<|end|>", "<|assistant|>"):
        plain = plain.replace(control, "")
    spoken = vocabulary.decode(ids)
    for control in ("<|end|>", "<|assistant|>"):
        spoken = spoken.replace(control, "")
    assert spoken == plain


@pytest.mark.parametrize("prompt", ["on", "<|begin|>on"])
def test_a_prompt_begins_with_one_bos(vocabulary, prompt):
    on = vocabulary.encode("on", begin=False, controls=False)
    assert completion_ids(vocabulary, prompt) == [0, *on]


def test_an_empty_prompt_is_a_bos_alone(vocabulary):
    assert completion_ids(vocabulary, "") == [0]


@pytest.mark.journey
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tail", ["a < b & 'c'", " \n é 猫\n\n"])
def test_templates_render_as_in_transformers(tiny, name, tail):
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    reference = PreTrainedTokenizerFast(tokenizer_object=tiny.make_tokenizer()[0], **SPECIAL)
    messages = [
        {"role": "user", "content": "What's on?"},
        {"role": "assistant", "content": "The lamp."},
        {"role": "user", "content": tail},
    ]
    expected = reference.apply_chat_template(
        messages, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=True
    )
    assert ChatTemplate(TEMPLATES[name], SPECIAL).render(messages, NOW) == expected


@pytest.mark.journey
@pytest.mark.filterwarnings("default")
def test_tools_and_calls_are_rendered_as_in_transformers(tiny):
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    reference = PreTrainedTokenizerFast(tokenizer_object=tiny.make_tokenizer()[0], **SPECIAL)
    messages = [*user("Läuft < sie?"), CALLED, {"role": "tool", "content": "ja", "tool_call_id": "c"}]
    expected = reference.apply_chat_template(
        messages, tools=[LAMP], chat_template=TOOLS, tokenize=False, add_generation_prompt=True
    )
    assert ChatTemplate(TOOLS, SPECIAL).render(messages, NOW, [LAMP]) == expected
