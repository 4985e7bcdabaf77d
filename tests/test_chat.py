"""Rendering: the ids of transformers, BOS once, the prefix, the source position, responses as they read in place."""

import functools
import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

from tests.families import on_day
from trimtab.errors import InputError
from trimtab.models.chat import ChatFormat, RenderedPrompt
from trimtab.models.tiny_text import SPECIAL_TOKENS, tiny_tokenizer

LLAMA = """\
{{- bos_token }}
{%- for m in messages %}
{{- '<|start|>' + m['role'] + '<|stop|>\\n\\n' + m['content'] | trim + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|stop|>\\n\\n' }}{% endif %}"""

GEMMA = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}
{%- for m in messages %}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must take turns') }}{% endif %}
{{- '<|start|>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' + m['content'] | trim + '<|stop|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>model\\n' }}{% endif %}"""

QWEN = """\
{%- if messages[0]['role'] != 'system' %}{{- '<|start|>system\\nYou are a helper.<|stop|>\\n' }}{% endif %}
{%- for m in messages %}{{- '<|start|>' + m['role'] + '\\n' + m['content'] + '<|stop|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant\\n' }}{% endif %}"""

PHI = """\
{%- for m in messages %}{{- '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{% endif %}"""

MISTRAL = """\
{{- bos_token }}
{%- for m in messages %}
{%- if m['role'] == 'user' %}{{- '[INST] ' + m['content'] + ' [/INST]' }}
{%- elif m['role'] == 'assistant' %}{{- ' ' + m['content'] + eos_token }}{% endif %}
{%- endfor %}"""

HEADERS = {
    "tiny": "<|assistant|>\n",
    "llama": "<|start|>assistant<|stop|>\n\n",
    "gemma": "<|start|>model\n",
    "qwen": "<|start|>assistant\n",
    "phi": "<|assistant|>\n",
    "mistral": " [/INST]",
}

PROMPTS = ["How do I bake bread?", "", "  two blanks first", "ünï ☃ 😀\nline", "<bos>mine<|end|>\n<|user|>", "a\n\n"]


def without_bos(tokenizer):
    """A tokenizer that adds nothing, and trims the blanks off its offsets as older byte-level ones do."""
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def make_tokenizer(style):
    tokenizer = tiny_tokenizer(vocab_size=600, extra_special_tokens=("<|start|>", "<|stop|>", "[INST]", "[/INST]"))
    if style == "qwen":
        tokenizer = without_bos(tokenizer)
    if style == "phi":
        tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|assistant|>", rstrip=True)]})
    templates = {"llama": LLAMA, "gemma": GEMMA, "qwen": QWEN, "phi": PHI, "mistral": MISTRAL}
    if style in templates:
        tokenizer.chat_template = templates[style]
    if style == "plain":
        tokenizer.chat_template = None
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers():
    return {style: make_tokenizer(style) for style in (*HEADERS, "plain")}


@pytest.fixture(scope="module")
def formats(tokenizers):
    return {style: ChatFormat(tokenizer) for style, tokenizer in tokenizers.items()}


def hf_ids(tokenizer, messages):
    found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    return tuple(found)


def user(text):
    return [{"role": "user", "content": text}]


class TestTemplate:
    @pytest.mark.parametrize("style", ["tiny", "llama", "gemma", "qwen", "mistral"])
    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_ids_are_those_of_transformers(self, tokenizers, formats, style, prompt):
        tokenizer, chat = tokenizers[style], formats[style]
        rendered = chat.render(prompt)
        assert chat.kind == "template"
        assert rendered.ids == hf_ids(tokenizer, user(prompt))
        assert rendered.text == tokenizer.apply_chat_template(user(prompt), tokenize=False, add_generation_prompt=True)
        assert rendered == chat.render(user(prompt))

    @pytest.mark.parametrize("style", ["tiny", "llama", "gemma", "phi", "mistral"])
    def test_bos_stands_exactly_once(self, tokenizers, formats, style):
        bos = tokenizers[style].bos_token_id
        ids = formats[style].render("How do I bake bread?").ids
        assert ids[0] == bos
        assert ids.count(bos) == 1

    def test_bos_that_only_the_tokenizer_adds_is_added_once_and_not_spelled(self, tokenizers, formats):
        rendered = formats["phi"].render("Hello")
        assert not rendered.text.startswith("<bos>")
        assert rendered.ids == (1, *hf_ids(tokenizers["phi"], user("Hello")))

    def test_bos_behind_a_blank_of_the_template_is_not_doubled(self):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = "\n" + PHI.replace("{%- for m", "{{ '\\n' + bos_token }}{%- for m", 1)
        ids = ChatFormat(tokenizer).render("Hello").ids
        assert ids.count(1) == 1
        assert ids[0] != 1

    def test_no_bos_where_the_model_has_none(self, tokenizers, formats):
        assert tokenizers["qwen"].bos_token_id not in formats["qwen"].render("Hello").ids

    @pytest.mark.parametrize(
        ("style", "prefix"),
        [
            ("tiny", "<bos><|user|>\n"),
            ("llama", "<bos><|start|>user<|stop|>\n\n"),
            ("gemma", "<bos><|start|>user\n"),
            ("qwen", "<|start|>system\nYou are a helper.<|stop|>\n<|start|>user\n"),
            ("mistral", "<bos>[INST]"),
        ],
    )
    def test_prefix_is_what_every_user_turn_begins_with(self, tokenizers, formats, style, prefix):
        tokenizer, chat = tokenizers[style], formats[style]
        assert tokenizer.decode(list(chat.prefix_ids)).rstrip(" ") == prefix
        rendered = chat.render("Zebra")
        assert rendered.prefix_length == len(chat.prefix_ids)
        assert rendered.ids[: rendered.prefix_length] == chat.prefix_ids

    @pytest.mark.parametrize("style", list(HEADERS))
    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_source_position_ends_the_assistant_header(self, tokenizers, formats, style, prompt):
        rendered = formats[style].render(prompt)
        assert rendered.text.endswith(HEADERS[style])
        assert rendered.source_position == len(rendered.ids) - 1

    @pytest.mark.parametrize("style", list(HEADERS))
    def test_naming_the_header_as_source_tokens_changes_nothing(self, tokenizers, formats, style):
        named = ChatFormat(tokenizers[style], source_tokens=HEADERS[style])
        assert [named.render(text) for text in PROMPTS] == [formats[style].render(text) for text in PROMPTS]

    def test_a_conversation_keeps_its_turns(self, tokenizers, formats):
        turns = [*user("Hi"), {"role": "assistant", "content": "Hello"}, *user("Bye")]
        assert formats["llama"].render(turns).ids == hf_ids(tokenizers["llama"], turns)

    def test_a_refusal_of_the_template_is_an_input_error(self, formats):
        with pytest.raises(InputError, match=r"refuses the turns \(user, user\): roles must take turns"):
            formats["gemma"].render([*user("Hi"), *user("again")])

    def test_a_template_that_cannot_render_one_user_turn_is_refused(self):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = "{{ raise_exception('only tools') }}"
        with pytest.raises(InputError, match="only tools"):
            ChatFormat(tokenizer)


class TestHeader:
    def tokenizer(self, template):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = template
        return tokenizer

    def test_no_header_before_the_answer_names_the_option(self):
        tokenizer = self.tokenizer(
            "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '\\n' }}{% endfor %}"
        )
        chat = ChatFormat(tokenizer)
        assert chat.render("Hello").text == "<|user|>\nHello\n"
        with pytest.raises(InputError, match="--source-tokens"):
            chat.check_source()

    @pytest.mark.parametrize("style", [*HEADERS, "plain"])
    def test_the_usual_templates_have_one(self, formats, style):
        formats[style].check_source()

    def test_source_tokens_replace_the_header(self):
        tokenizer = self.tokenizer(
            "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '\\n' }}{% endfor %}"
        )
        chat = ChatFormat(tokenizer, source_tokens="<|user|>")
        chat.check_source()
        rendered = chat.render("Hello")
        assert rendered.ids[rendered.source_position] == tokenizer.convert_tokens_to_ids("<|user|>")

    def test_a_template_that_closes_bare_turns_otherwise_is_found_by_its_answer(self):
        tokenizer = self.tokenizer(
            "{{ messages[0].content }}{% if add_generation_prompt or messages | length > 1 %}{{ '<|assistant|>' }}"
            "{% if messages | length > 1 %}{{ messages[1].content }}{% endif %}{% else %}<eos>{% endif %}"
        )
        chat = ChatFormat(tokenizer)
        chat.check_source()
        assert chat.render("Hello").text == "Hello<|assistant|>"


class TestDate:
    """The clock of transformers gives templates the day; it must not get into what a vector keeps."""

    TEMPLATE = (
        "{{- bos_token }}{% set day = strftime_now('%d %b %Y') if strftime_now is defined else 'unknown' %}"
        "{{- '<|system|>\nToday is ' + day + '.<|end|>\n' }}"
        "{%- for m in messages %}{{- '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{% endif %}"
    )

    def on(self, monkeypatch, day, template=TEMPLATE):
        on_day(monkeypatch, day)
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = template
        return tokenizer, ChatFormat(tokenizer)

    def test_the_prefix_holds_the_day_and_the_undated_one_ends_before_it(self, monkeypatch):
        undated = set()
        for day, shown in ((21, "21 Nov 2026"), (22, "22 Nov 2026"), (1, "01 Nov 2026")):
            tokenizer, chat = self.on(monkeypatch, day)
            assert tokenizer.decode(chat.prefix_ids) == f"<bos><|system|>\nToday is {shown}.<|end|>\n<|user|>\n"
            assert chat.render("Hello").prefix_length == len(chat.prefix_ids)
            undated.add(chat.undated_prefix_ids)
        (ids,) = undated
        assert tokenizer.decode(ids).rstrip(" ") == "<bos><|system|>\nToday is"
        assert chat.prefix_ids[: len(ids)] == ids

    def test_a_template_that_needs_a_real_date_keeps_bos(self, monkeypatch):
        picky = "{% if '%' in strftime_now('%d') %}{{ raise_exception('no date') }}{% endif %}" + self.TEMPLATE
        _, chat = self.on(monkeypatch, 21, picky)
        assert len(chat.prefix_ids) > 1
        assert chat.undated_prefix_ids == (1,)

    @pytest.mark.parametrize("style", [*HEADERS, "plain"])
    def test_without_a_date_both_are_one(self, formats, style):
        assert formats[style].undated_prefix_ids == formats[style].prefix_ids


class TestSourceTokens:
    def test_the_last_occurrence_counts(self, tokenizers):
        chat = ChatFormat(tokenizers["tiny"], source_tokens="<|user|>")
        rendered = chat.render([*user("Hi"), {"role": "assistant", "content": "Hello"}, *user("Bye")])
        where = [k for k, token in enumerate(rendered.ids) if token == SPECIAL_TOKENS.index("<|user|>")]
        assert rendered.source_position == where[-1]

    @pytest.mark.parametrize("style", ["tiny", "qwen"])
    @pytest.mark.parametrize("named", ["story", "sto", " a", "a", "<|", "Tell", "Tell me a story <| now"])
    def test_the_token_that_holds_the_last_character(self, tokenizers, style, named):
        tokenizer = tokenizers[style]
        rendered = ChatFormat(tokenizer, source_tokens=named).render("Tell me a story <| now")
        last = rendered.text.rindex(named) + len(named) - 1
        before = len(tokenizer.decode(list(rendered.ids[: rendered.source_position])))
        through = len(tokenizer.decode(list(rendered.ids[: rendered.source_position + 1])))
        assert before <= last < through

    def test_a_character_of_several_tokens_is_read_to_its_end(self, tokenizers):
        tokenizer = tokenizers["tiny"]
        rendered = ChatFormat(tokenizer, source_tokens="☃").render("snow ☃ now")
        assert tokenizer.decode(list(rendered.ids[: rendered.source_position + 1])).endswith("snow ☃")

    def test_a_blank_belongs_to_the_word_behind_it(self, tokenizers):
        for style in ("tiny", "qwen"):
            rendered = ChatFormat(tokenizers[style], source_tokens="me ").render("Tell me the story")
            assert tokenizers[style].decode([rendered.ids[rendered.source_position]]) == " the"

    def test_absent_names_the_prompt_and_the_tokens(self, tokenizers):
        chat = ChatFormat(tokenizers["tiny"], source_tokens="<|model|>")
        with pytest.raises(InputError) as caught:
            chat.render("How do I bake " + "very " * 40)
        text = str(caught.value)
        assert "'<|model|>'" in text
        assert "How do I bake" in text
        assert "--source-tokens" in text
        assert len(text) < 250
        assert "\n" not in text

    def test_absent_from_a_raw_text_falls_to_the_last_token(self, tokenizers):
        rendered = ChatFormat(tokenizers["tiny"], source_tokens="<|model|>").render_raw("Hello there")
        assert rendered.source_position == len(rendered.ids) - 1

    def test_an_empty_text_is_refused(self, tokenizers):
        with pytest.raises(InputError, match="empty"):
            ChatFormat(tokenizers["tiny"], source_tokens="")


class TestSystem:
    @pytest.mark.parametrize("style", ["tiny", "llama", "qwen", "phi"])
    def test_a_system_role_is_used(self, tokenizers, formats, style, caplog):
        turns = [{"role": "system", "content": "Be kind."}, *user("Hi")]
        rendered = formats[style].render("Hi", system="Be kind.")
        assert rendered == formats[style].render(turns)
        assert rendered.text == tokenizers[style].apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert "You are a helper." not in rendered.text
        assert not caplog.records

    def test_the_prefix_is_only_what_the_row_shares(self, formats):
        chat = formats["tiny"]
        assert len(chat.prefix_ids) == 3
        assert chat.render("Hi", system="Be kind.").prefix_length == 1

    @pytest.mark.parametrize("style", ["gemma", "mistral"])
    def test_without_a_system_role_it_goes_before_the_first_user_turn(self, tokenizers, style, caplog):
        chat = ChatFormat(tokenizers[style])
        with caplog.at_level(logging.WARNING):
            rendered = chat.render("Hi", system="Be kind.")
            again = chat.render([{"role": "system", "content": "Be kind."}, *user("Hi")])
        assert rendered == again == chat.render("Be kind.\n\nHi")
        assert [record.name for record in caplog.records] == ["trimtab.models.chat"]
        assert "before the first user turn" in caplog.text

    def test_later_turns_stay_where_they_are(self, tokenizers):
        chat = ChatFormat(tokenizers["gemma"])
        later = [{"role": "assistant", "content": "Hello"}, *user("Bye")]
        assert chat.render([*user("Hi"), *later], system="S") == chat.render([*user("S\n\nHi"), *later])

    def test_a_system_text_joins_the_prompts_own(self, formats):
        turns = [{"role": "system", "content": "Own."}, *user("Hi")]
        assert formats["tiny"].render(turns, system="Given.") == formats["tiny"].render("Hi", system="Given.\n\nOwn.")


class TestPlain:
    def test_text_with_bos_and_nothing_else(self, tokenizers, formats):
        chat, tokenizer = formats["plain"], tokenizers["plain"]
        rendered = chat.render("Once there was")
        assert chat.kind == "plain"
        assert rendered.text == "Once there was"
        assert list(rendered.ids) == tokenizer("Once there was")["input_ids"]
        assert chat.prefix_ids == (1,)
        assert rendered.prefix_length == 1
        assert rendered.source_position == len(rendered.ids) - 1

    def test_a_bos_in_the_text_is_not_doubled(self, formats):
        assert formats["plain"].render("<bos>Once").ids == formats["plain"].render("Once").ids

    def test_an_eos_that_the_tokenizer_adds_is_dropped(self):
        tokenizer = tiny_tokenizer(chat=False)
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
        )
        assert tokenizer("Once")["input_ids"][-1] == 2
        rendered = ChatFormat(tokenizer).render("Once")
        assert list(rendered.ids) == tokenizer("Once")["input_ids"][:-1]

    def test_system_text_and_turns(self, formats):
        turns = [{"role": "system", "content": "Be kind."}, *user("Hi"), {"role": "assistant", "content": "Hello"}]
        assert formats["plain"].render(turns).text == "Be kind.\n\nHi\nHello"
        assert formats["plain"].render("Hi", system="Be kind.").text == "Be kind.\n\nHi"
        assert formats["plain"].render("Hi", system="").text == "Hi"

    def test_half_a_surrogate_pair_is_refused(self, formats):
        for style in ("plain", "tiny"):
            with pytest.raises(InputError, match="half of a surrogate pair") as error:
                formats[style].render("caf\udce9")
            assert str(error.value).isascii()

    def test_an_empty_prompt_is_bos_or_an_error(self, formats):
        assert formats["plain"].render("") == RenderedPrompt("", (1,), 0, 1)
        with pytest.raises(InputError, match="empty"):
            ChatFormat(without_bos(tiny_tokenizer(chat=False))).render("")

    def test_no_bos_means_an_empty_prefix(self):
        chat = ChatFormat(without_bos(tiny_tokenizer(chat=False)))
        assert chat.prefix_ids == ()
        assert chat.render("Hi").prefix_length == 0


class TestRaw:
    def test_a_rendered_text_reads_as_if_rendered_here(self, formats):
        rendered = formats["llama"].render("Hi")
        assert formats["llama"].render_raw(rendered.text) == rendered

    def test_bos_is_added_where_it_is_missing(self, formats):
        rendered = formats["llama"].render("Hi")
        assert formats["llama"].render_raw(rendered.text.removeprefix("<bos>")).ids == rendered.ids


class TestMessages:
    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            ([], "no user turn"),
            ([{"role": "system", "content": "x"}], "no user turn"),
            ([{"role": "tool", "content": "x"}], r"turn 1 has the role 'tool'; allowed: system, user, assistant"),
            ([{"content": "x"}], "turn 1 has no text under 'role'"),
            ([*user("x"), {"role": "user"}], "turn 2 has no text under 'content'"),
            ([{"role": "user", "content": ["x"]}], "turn 1 has no text under 'content'"),
            (["x"], "turn 1 is a str"),
            ({"role": "user", "content": "x"}, "a prompt is a dict"),
            (3, "a prompt is a int"),
        ],
    )
    def test_malformed_ones_are_refused(self, formats, prompt, message):
        with pytest.raises(InputError, match=message):
            formats["tiny"].render(prompt)


class TestResponse:
    @pytest.mark.parametrize("style", ["tiny", "llama", "gemma", "qwen", "mistral", "plain"])
    @pytest.mark.parametrize("response", ["Sure, here", " Sure", "é", "😀 ok", "\n", "  x"])
    def test_ids_behind_the_prompt_spell_prompt_and_response(self, tokenizers, formats, style, response):
        tokenizer, chat = tokenizers[style], formats[style]
        rendered = chat.render("How do I bake bread?")
        ids = chat.response_ids(rendered, response)
        text = tokenizer.decode([*rendered.ids, *ids])
        assert text.removeprefix("<bos>") == (rendered.text + response).removeprefix("<bos>")
        assert not {tokenizer.bos_token_id, tokenizer.eos_token_id}.intersection(ids)

    def test_a_word_has_the_ids_of_running_text(self, tokenizers, formats):
        rendered = formats["plain"].render("Once there was a")
        joint = tokenizers["plain"]("Once there was a little girl")["input_ids"]
        assert [*rendered.ids, *formats["plain"].response_ids(rendered, " little girl")] == joint

    def test_nothing_for_an_empty_response(self, formats):
        assert formats["tiny"].response_ids(formats["tiny"].render("Hi"), "") == ()

    def test_behind_an_empty_plain_prompt_bos_is_not_repeated(self, tokenizers, formats):
        ids = formats["plain"].response_ids(formats["plain"].render(""), "Once")
        assert list(ids) == tokenizers["plain"]("Once", add_special_tokens=False)["input_ids"]

    @pytest.mark.parametrize("trims", [False, True])
    def test_a_token_across_the_border_is_left_to_the_response_alone(self, tokenizers, trims):
        tokenizer = tiny_tokenizer(chat=False)
        chat = ChatFormat(without_bos(tokenizer) if trims else tokenizer)
        for prompt, response in (("the little ", "girl"), ("play", "ed"), ("a  ", "little"), ("x ", "\ny")):
            rendered = chat.render(prompt)
            ids = chat.response_ids(rendered, response)
            assert tokenizer.decode(list(ids)) == response
            assert tokenizer.decode([*rendered.ids, *ids]).removeprefix("<bos>") == prompt + response

    def test_blanks_before_the_border_may_be_cut_otherwise_in_running_text(self):
        tokenizer = tiny_tokenizer(chat=False)
        chat = ChatFormat(tokenizer)
        rendered = chat.render("Hi\n\n")
        assert tokenizer.decode(list(chat.response_ids(rendered, "Sure"))) == "Sure"

    def test_a_header_that_swallows_blanks_swallows_those_of_the_response(self, tokenizers, formats):
        chat, tokenizer = formats["phi"], tokenizers["phi"]
        rendered = chat.render("Hi")
        assert rendered.ids[-1] == tokenizer.convert_tokens_to_ids("<|assistant|>")
        bare = chat.response_ids(rendered, "Sure")
        assert tokenizer.decode(list(bare)) == "Sure"
        assert chat.response_ids(rendered, "  Sure") == bare
        assert chat.response_ids(rendered, " ") == ()

    @settings(max_examples=80)
    @given(st.text(max_size=12), st.text(max_size=12), st.booleans(), st.booleans())
    def test_any_text_comes_back(self, prompt, response, trims, chats):
        tokenizer = tiny_tokenizer_of(trims=trims, chats=chats)
        chat = ChatFormat(tokenizer)
        rendered = chat.render("." + prompt)
        ids = chat.response_ids(rendered, response)
        assert tokenizer.decode([*rendered.ids, *ids]).removeprefix("<bos>") == (
            rendered.text.removeprefix("<bos>") + response
        )
        assert bool(ids) == bool(response)


@functools.cache
def tiny_tokenizer_of(*, trims, chats):
    tokenizer = tiny_tokenizer(chat=chats)
    return without_bos(tokenizer) if trims else tokenizer


@pytest.fixture(scope="module")
def pieces_tokenizer():
    pieces = ["<s>", "</s>", "▁", *"abcdefghilnorstuwy.\n", "▁a", "▁g", "▁t", "▁go", "▁to"]
    merges = [("▁", "a"), ("▁", "g"), ("▁", "t"), ("▁g", "o"), ("▁t", "o")]
    backend = Tokenizer(models.BPE({piece: k for k, piece in enumerate(pieces)}, merges))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


class TestSentencePieceLike:
    """A tokenizer that writes a blank as part of the word and puts one in front of every text."""

    def test_a_response_reads_in_place(self, pieces_tokenizer):
        chat = ChatFormat(pieces_tokenizer)
        rendered = chat.render("a girl goes")
        for response in (" to to", "to", "\nto", "."):
            joint = pieces_tokenizer("a girl goes" + response)["input_ids"]
            assert [*rendered.ids, *chat.response_ids(rendered, response)] == joint

    def test_decode_keeps_the_blank_in_front(self, pieces_tokenizer):
        chat = ChatFormat(pieces_tokenizer)
        rendered = chat.render("a girl")
        for response in (" to go", "s go", "\nto"):
            assert chat.decode(chat.response_ids(rendered, response)) == response

    def test_behind_a_template_the_blank_is_not_invented(self, pieces_tokenizer):
        pieces_tokenizer.chat_template = (
            "{{ bos_token }}u. {{ messages[0].content }}\na."
            "{% if messages | length > 1 %}{{ messages[1].content }}{% endif %}"
        )
        try:
            chat = ChatFormat(pieces_tokenizer)
            rendered = chat.render("hi")
            joint = pieces_tokenizer(rendered.text + "to", add_special_tokens=False)["input_ids"]
            assert [*rendered.ids, *chat.response_ids(rendered, "to")] == joint
            assert pieces_tokenizer.convert_ids_to_tokens(list(chat.response_ids(rendered, "to"))) == ["t", "o"]
        finally:
            pieces_tokenizer.chat_template = None


class Letters(PreTrainedTokenizer):
    """A slow tokenizer: one token a letter, two for the pair "th", no offsets."""

    def __init__(self, **kwargs):
        self.letters = {letter: k for k, letter in enumerate(["<s>", "</s>", "th", *map(chr, range(32, 127)), "\n"])}
        super().__init__(bos_token="<s>", eos_token="</s>", **kwargs)

    @property
    def vocab_size(self):
        return len(self.letters)

    def get_vocab(self):
        return dict(self.letters)

    def _tokenize(self, text, **kwargs):
        pieces = []
        while text:
            size = 2 if text.startswith("th") else 1
            pieces.append(text[:size])
            text = text[size:]
        return pieces

    def _convert_token_to_id(self, token):
        return self.letters[token]

    def _convert_id_to_token(self, index):
        return list(self.letters)[index]

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens)

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return [0, *token_ids_0]


@pytest.fixture(scope="module")
def slow_tokenizer():
    tokenizer = Letters()
    tokenizer.chat_template = (
        "u:{{ messages[0].content }}\na:{% if messages | length > 1 %}{{ messages[1].content }}{% endif %}"
    )
    return tokenizer


class TestSlowTokenizer:
    def test_bos_prefix_and_position(self, slow_tokenizer):
        chat = ChatFormat(slow_tokenizer)
        rendered = chat.render("this")
        assert rendered.ids == (0, *slow_tokenizer("u:this\na:", add_special_tokens=False)["input_ids"])
        assert slow_tokenizer.convert_ids_to_tokens(list(chat.prefix_ids)) == ["<s>", "u", ":"]
        assert rendered.source_position == len(rendered.ids) - 1

    def test_response_is_what_the_joint_ids_have_beyond_the_prompt(self, slow_tokenizer):
        chat = ChatFormat(slow_tokenizer)
        ids = chat.response_ids(chat.render("this"), "that")
        assert slow_tokenizer.convert_ids_to_tokens(list(ids)) == ["th", "a", "t"]

    def test_response_alone_where_the_joint_ids_begin_otherwise(self, slow_tokenizer):
        chat = ChatFormat(slow_tokenizer)
        ids = chat.response_ids(chat.render_raw("at"), "hat")
        assert slow_tokenizer.convert_ids_to_tokens(list(ids)) == ["h", "a", "t"]

    @pytest.mark.parametrize(("named", "held"), [("u:", ":"), ("t", "t"), ("this", "s"), ("tha", "a"), ("wit", "th")])
    def test_source_tokens(self, slow_tokenizer, named, held):
        rendered = ChatFormat(slow_tokenizer, source_tokens=named).render("this with that")
        assert slow_tokenizer.convert_ids_to_tokens(rendered.ids[rendered.source_position]) == held


class TestDecode:
    def test_special_tokens_are_left_out(self, formats):
        assert formats["tiny"].decode([1, 3, 6, 2]) == ""
        ids = formats["tiny"].response_ids(formats["tiny"].render("Hi"), " Sure, a story")
        assert formats["tiny"].decode([*ids, 2]) == " Sure, a story"
        assert formats["plain"].decode([*ids, 2]) == " Sure, a story"

    def test_nothing_is_nothing(self, formats):
        assert formats["plain"].decode([]) == formats["tiny"].decode([]) == ""


class TestFingerprint:
    def test_same_for_the_same_and_other_for_another_template_or_token(self):
        first, again, other, base = (tiny_tokenizer() for _ in range(4))
        other.chat_template = PHI
        base.eos_token = "<|end|>"
        prints = [ChatFormat(tokenizer).fingerprint for tokenizer in (first, again, other, base)]
        assert prints[0] == prints[1]
        assert len(set(prints)) == 3
        assert all(len(text) == 64 and int(text, 16) for text in prints)

    def test_pad_does_not_count(self):
        tokenizer = tiny_tokenizer()
        before = ChatFormat(tokenizer).fingerprint
        tokenizer.pad_token = tokenizer.eos_token
        assert ChatFormat(tokenizer).fingerprint == before


class TestRealCheckpoints:
    def test_parity_checkpoint(self, shared):
        path = shared / "parity" / "cdas-llama"
        tokenizer = AutoTokenizer.from_pretrained(path / "model")
        expected = json.loads((path / "expected.json").read_text())
        chat = ChatFormat(tokenizer)
        named = ChatFormat(tokenizer, source_tokens=expected["source_tokens"])
        assert len(chat.prefix_ids) == expected["prefix_length"]
        lines = [json.loads(line) for line in (path / "generations.jsonl").read_text().splitlines()]
        assert lines
        for line in lines:
            text = line["input"].removeprefix("<|user|>\n").removesuffix("<|end|>\n<|assistant|>\n")
            rendered = chat.render(text)
            assert rendered == named.render(text)
            assert list(rendered.ids) == tokenizer(line["input"])["input_ids"]
            assert chat.render_raw(line["input"]).ids == rendered.ids
            assert rendered.source_position == len(rendered.ids) - 1
            assert rendered.prefix_length == expected["prefix_length"]

    def test_stories_checkpoint(self, shared):
        tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "stories260k-hf")
        chat = ChatFormat(tokenizer)
        assert chat.kind == "plain"
        assert chat.prefix_ids == (tokenizer.bos_token_id,)
        rendered = chat.render("Once upon a time, Lily")
        assert list(rendered.ids) == tokenizer("Once upon a time, Lily")["input_ids"]
        ids = chat.response_ids(rendered, " was happy.")
        assert [*rendered.ids, *ids] == tokenizer("Once upon a time, Lily was happy.")["input_ids"]
        assert chat.decode(ids) == " was happy."
