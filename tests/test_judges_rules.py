"""Rules: what each checker takes and what it does not fall for, and how a name or a concept in words finds one."""

import json
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import InputError, MissingExtraError
from trimtab.evaluation.judges import Question
from trimtab.evaluation.judges.rules import LIBRARIES, RuleJudge
from trimtab.evaluation.rules import Cuts, check_for, check_of, list_rules
from trimtab.evaluation.rules import grammar as grammar_room
from trimtab.evaluation.rules import language as language_room
from trimtab.evaluation.rules import marks as marks_room
from trimtab.evaluation.rules.said import Said

ROOT = Path(__file__).resolve().parents[1]
ASKED = "What is a comet?"

# spec: texts rated 2, texts rated 1, texts rated 0; a pair is (text, what the user asked)
TABLE = {
    "upper-case": (
        ["THE SEA.", "THE NASA OF 1969!", "ÉTÉ À PARIS", "1. FIRST\n2. SECOND", "DON'T SHOUT"],
        ["THE SEA IS deep.", "THE END of it"],
        ["The Sea Is Deep.", "the sea", "12345 !!!", "NASA is an agency.", "hELLO tHERE", "海は深い"],
    ),
    "lower-case": (
        ["the sea.", "it's 3 o'clock, isn't it?", "- one\n- two"],
        ["the SEA is deep.", "so it IS a thing"],
        ["The Sea Is Deep Here", "THE SEA", "12345", "Aa Bb Cc", "HELLO you"],
    ),
    "title-case": (
        ["The Sea Is Deep", "The Lord of the Rings", "A Visit to NASA\nThe Second Line"],
        ["The Sea is deep", "A Good day Here"],
        ["the sea is deep", "THE SEA IS DEEP", "of the", "The sea and all that lives within its waters", "123"],
    ),
    "language:es": (
        ["La nutria vive en los ríos y come peces pequeños.", "¡Hola! ¿En qué puedo ayudarte hoy?",
         "LA NUTRIA VIVE EN LOS RÍOS Y COME PECES PEQUEÑOS.",
         "Claro, aquí tienes tres consejos:\n\n1. Bebe más agua.\n2. Duerme bien.\n3. Camina todos los días."],
        ["La nutria vive en los ríos y come peces pequeños. She sleeps in old forests all day long.",
         "El perro duerme en la casa de mi querida abuela.\n\nThe dog sleeps in the house."],
        ["The otter lives in rivers and eats small fish.", "A lontra vive nos rios e come peixes pequenos.",
         "12345", "👍👍", "I eat tacos and burritos every Friday with my friends.", "def f(x): return x + 1"],
    ),
    "language:Chinese": (
        ["水獭生活在河流中,吃小鱼。", "当然,这里有三个建议。", "你好"],
        ["水獭生活在河流中,吃小鱼,冬天也不睡觉,大家都喜欢它们的样子和动作。 The otter lives there."],
        ["カワウソは川に住み、小さな魚を食べます。", "수달은 강에 살며 작은 물고기를 먹습니다.",
         "The otter lives in rivers.", "???"],
    ),
    "language:ko": (
        ["수달은 강에 살며 작은 물고기를 먹습니다.", "물론입니다. 세 가지 조언이 있습니다.", "네, 알겠습니다."],
        [],
        ["水獭生活在河流中,吃小鱼。", "Annyeong haseyo, my friend!", "カワウソは川に住みます。"],
    ),
    "past-tense": (
        ["The otter lived in rivers. It ate small fish.", "She had gone home before it rained.",
         "They didn't know, and nobody told them."],
        ["He walked home and slept well. Now he is awake.", "She ran home. She is tired."],
        ["The otter lives in rivers and eats fish.", "I will have gone.", "Used cars cost little.",
         "The finished report.",
         "Yesterday.", "red bed shed", "She has seen it."],
    ),
    "passive-voice": (
        ["The cake was eaten by the boys.", "Mistakes were made. The road was built in 1900.",
         "English is spoken here.", "It has been repaired twice."],
        ["The cake was eaten by the boys. They liked it."],
        ["The boys ate the cake.", "She is tired.", "He has walked home.", "Was it red?", "by the boys",
         "The cake was eaten. I liked it. You hated it. We went home."],
    ),
    "exclamation": (
        ["Hello! How nice!", "Really?!", "Great news! 🎉", "“Stop!” 太好了!"],
        ["Hello! How are you?", "Wow!! Good. Fine!"],
        ["Hello.", "!", "!!!", "No! This is. Not. It.", "x != y holds", "Hello! I am fine. You are too."],
    ),
    "questions-only": (
        ["What is it?", "Why? How?", "1. Who?\n2. What?", "你好吗?"],
        ["What is it? A fish."],
        ["A fish.", "?", "???", "What is it? A fish. A big one.", "see http://a.org/?q=1"],
    ),
    "no-commas": (
        ["The sea is deep.", "One two three", "a;b;c"],
        ["The sea is deep. And, well, wide.", "Yes, no. No."],
        ["Yes, no.", ",", "...", "10,000 people", "水獭,鱼", "、"],
    ),
    "letter-ending:s": (
        ["Otters eat fish eggs.", "He sings! She dances.", "“THESE ARE YES”"],
        ["Otters eat eggs. They sleep."],
        ["The sea.", "s s s.x", "1234s5", "Sure"],
    ),
    "emoji": (
        ["Nice 👍", "❤ you", "👨‍👩‍👧", "🇩🇪", "1️⃣"],
        [],
        ["Nice :)", "© 2024 ™", "1 # *", "→ ✓", "(smile)"],
    ),
    "emoji:4": (["👍👍👍👍", "a 😀 b 😀 c 😀 d 😀"], ["👍👍", "😀 x 😀 y 😀"], ["👍", "👨‍👩‍👧", ":) :) :) :)"]),
    "hashtag": (
        ["#sea", "I love it #sea2024", "(#été)", "#海"],
        [],
        ["# Heading", "#1 song", "http://a.org/#top", "a#b", "#00ff00", "C# code", "&#39;", "# #"],
    ),
    "hashtag:2": (["#a #b", "#one\n#two #three"], ["only #one", "#one #1"], ["none", "#1 #2", "## a"]),
    "url": (
        ["See https://example.org/a?b=c.", "www.example.com", "[x](http://en.wikipedia.org/wiki/Otter_(animal))"],
        [],
        ["http://", "https://localhost", "example.com", "http://[bad", "http:/a.org", "www", "mail@www.x"],
    ),
    "email": (
        ["me@example.org", "Write to first.last+tag@mail.example.co.uk.", "<a_b@c.de>"],
        [],
        ["me@example", "@name", "a@b@c", "me at example.org", "@example.org", "user@.com"],
    ),
    "phone": (
        ["Call (555) 123-4567.", "+44 20 7946 0958", "800-555-0199"],
        [],
        ["On 2024-01-15", "10,000,000 people", "ISBN 978-3-16-148410-0", "1914-1918", "192.168.0.1", "call me", "12"],
    ),
    "iso-date": (
        ["On 2024-02-29.", "(1999-12-31)", "from 2001-01-01 to 2001-02-01"],
        [],
        ["2023-02-29", "2024-13-01", "01-02-2024", "2024/02/01", "12024-01-01", "2024-01-011", "May 3, 2024"],
    ),
    "quoted-words": (
        ['He said "yes".', "a “fine” day", "«Oui»", '"one" and "two"'],
        [],
        ["it's 'fine'", '5" and 6"', '""', '" "', 'one "', '"..."'],
    ),
    "in-quotes": (
        ['"All of it is quoted."', "“So is this.”", '"One.\n\nTwo."'],
        ['"Half of it is" and no more'],
        ["none", '"', '""', 'long text with one "word" in it', "'single'", '"a" and then nothing else that is quoted'],
    ),
    "highlights": (
        ["a *fine* day", "**bold words** here", "so *it* and **that**"],
        [],
        ["2 * 3 * 4", "***", "* item\n* item", "a*b*c", "** **", "*open"],
    ),
    "highlights:2": (["*a* and **b**", "**x** **y** **z**"], ["*a* only"], ["none", "**", "* *"]),
    "starts-with:Sure, here": (
        ["Sure, here it is.", "  sure, HERE you go", "**Sure, here**: a list", "“Sure, here,” he said"],
        ["Well. Sure, here it is.", "Oh sure, here"],
        ["Sure. Here", "Sure, hereafter", "here, sure", "Unsure, here", "Sure"],
    ),
    "ends-with:the end.": (
        ["So it goes. The End.", "the end", "It is the end!", "*The end.*"],
        ["The end. Or not.", "The end of it"],
        ["the ending", "bend", "the  trend", "end"],
    ),
    "postscript": (
        ["Dear you.\n\nP.S. I love you.", "Bye.\nPS: call me", "Hi.\n\n**P.P.S.** More\nand more"],
        ["P.S. Only this.", "Hi.\n\nP.S. one\n\nBut then it goes on."],
        ["PS5 is a console.", "Hi.\n\nP.S.", "ps aux", "the P.S. inside a line", "U.P.S. delivers"],
    ),
    "keyword:ocean,blue sea": (
        ["The Ocean, a blue\nsea.", "BLUE SEA, OCEAN", "ocean? blue sea!"],
        ["The ocean is deep.", "a blue sea"],
        ["oceans", "blue", "seablue ocean_", "The otter."],
    ),
    "keyword:海": (["大海很深", "海"], [], ["sea", "水", "umi"]),
    "no-keyword:ocean,sea": (
        ["The otter swims.", "overseas", "Oceans"],
        [],
        ["The sea is deep.", "OCEAN", "...", "sea-level"],
    ),
    "repeats-request": (
        [("What is a comet? It is ice.", ASKED), ("“what is a comet?”\n\nIce.", ASKED), ("What is  a comet -- ice",
         ASKED)],
        [("What is a comet?", ASKED), ("You ask: What is a comet? Ice.", ASKED)],
        [("A comet is ice.", ASKED), ("What is a comets", ASKED), ("What is a star?", ASKED), ("Anything", ""), ("x",
         "?")],
    ),
    "json": (
        ['{"a": 1}', "[1, 2]", '```json\n{"a": {"b": null}}\n```', '```\n[{"x": "y"}]\n```'],
        ['Here it is:\n```json\n{"a": 1}\n```', '```json\n{"a": 1}\n```\nDone.'],
        ["{a: 1}", "{}", "5", '"text"', "true", '{"a": 1', '{"a": NaN}', "{'a': 1}", "[" * 100_000,
         '{"a": 1} and more'],
    ),
    "numbered-list": (
        ["1. one\n2. two", "Intro:\n1) one\n\n2) two\n3) three", "  1. a\n  2. b"],
        ["1. one", "1. one\n3. three"],
        ["- one\n- two", "1.\n2.", "2024. A year", "one\ntwo", "3. c\n4. d", "1.5 is a number"],
    ),
    "bullet-list": (
        ["- one\n- two", "* a\n* b\n* c", "• x\n• y", "List:\n+ a\n+ b"],
        ["- one", "text\n* one"],
        ["one - two", "---\n---", "- \n- ", "-5\n-6", "***\n***", "1. a\n2. b"],
    ),
    "blank-lines": (
        ["One.\n\nTwo.", "One.\n\nTwo.\n \nThree.", "One.\n\n\nTwo."],
        ["One.\nTwo.\n\nThree."],
        ["One.", "One.\nTwo.", "\n\n\n", "One.\nTwo.\nThree.\n\nFour.", "One.\n\n"],
    ),
    "separators": (
        ["One.\n***\nTwo.", "One.\n\n***\n\nTwo.\n***\nThree.", "a\n *** \nb"],
        [],
        ["One. *** Two.", "***", "One.\n***", "***\nTwo.", "a\n---\nb", "a\n****\nb", "a\n***\n***"],
    ),
    "separators:2": (
        ["a\n***\nb\n***\nc", "x\n\n***\n\ny\n\n***\n\nz"],
        ["a\n***\nb", "a\n***\n***\nb"],
        ["a", "***\n***"],
    ),
    "two-responses": (
        ["It is ice.\n******\nIt is a rock.", "a ****** b", "One\n\n******\n\nTwo"],
        ["Same.\n******\nsame.", "a\n******\nb\n******\nc"],
        ["It is ice.", "******", "a\n******", "a\n***\nb", "a\n*******\nb"],
    ),
    "max-words:4": (
        ["one two three four", "one", "it's a well-known fact"],
        ["a b c d e"],
        ["a b c d e f", "...", "水" * 9],
    ),
    "min-words:5": (["a b c d e", "one two three four five", "水獭在河里"], ["a b c d"], ["a b c", "a,,,,,,", "....."]),
    "sentences:2": (
        ["One. Two.", "Mr. Smith came. He left.", "One!\nTwo", "It is 3.5 m. e.g. this."],
        [],
        ["One.", "One. Two. Three.", "...", ". . ."],
    ),
    "sentences:5": (
        ["A b. C d. E f. G h. I j."],
        ["A b. C d. E f. G h.", "A b. C d. E f. G h. I j. K l."],
        ["A b. C d. E f."],
    ),
    "max-sentences:4": (
        ["One.", "A b. C d.", "A b. C d. E f. G h."],
        ["A b. C d. E f. G h. I j."],
        ["...", "?", "So. " * 9],
    ),
    "min-sentences:5": (
        ["A b. C d. E f. G h. I j.", "Oh no. " * 9, "Why?\n" * 5],
        ["A b. C d. E f. G h."],
        ["One.", "...........", "A. B"],
    ),
    "paragraphs:2": (["One.\n\nTwo.", "a\nb\n\nc", "One.\n \n\nTwo."], [], ["One.", "a\n\nb\n\nc", "a\n\n...", "a\nb"]),
}  # fmt: skip

CASES = [
    pytest.param(spec, *(text if isinstance(text, tuple) else (text, "")), rating, id=f"{spec}-{rating}-{number}")
    for spec, tables in TABLE.items()
    for rating, texts in zip((2, 1, 0), tables, strict=True)
    for number, text in enumerate(texts)
]


@pytest.mark.parametrize(("spec", "text", "asked", "rating"), CASES)
def test_what_a_checker_takes_and_what_it_does_not_fall_for(spec, text, asked, rating):
    check = check_of(spec)
    assert check.rating(text, asked) == rating, (check.share(text, asked), Said(text).sentences, Said(text).words)


def test_every_rule_has_three_of_each():
    known = {rule.name: ([], []) for rule in list_rules()}
    for spec, (good, _, bad) in TABLE.items():
        known[spec.partition(":")[0]][0].extend(good)
        known[spec.partition(":")[0]][1].extend(bad)
    assert {name: (len(good), len(bad)) for name, (good, bad) in known.items() if min(len(good), len(bad)) < 3} == {}
    assert len(known) == 37


@pytest.mark.parametrize("spec", TABLE)
@pytest.mark.parametrize("text", ["", " ", "\n\n\t", "\u200b", "\x00"])
def test_nothing_said_keeps_to_no_rule(spec, text):
    assert check_of(spec).rating(text, ASKED) == 0


@given(st.text(max_size=300), st.sampled_from(sorted(TABLE)))
@settings(max_examples=1500)
def test_any_text_has_a_share(text, spec):
    check = check_of(spec)
    share = check.share(text, ASKED)
    assert 0 <= share <= 1
    assert check.share(text, ASKED) == share
    assert check.rating(text, ASKED) == check.rule.cuts.rating(share)


LONG = {
    "word": "word " * 20_000, "one word": "a" * 100_000, "dots": ". " * 50_000, "stars": "*" * 100_000,
    "quotes": '"' * 100_000, "marks": "!?" * 50_000, "at": "a@" * 50_000, "hosts": "http://a." * 10_000,
    "hosts without end": "http://" + "a." * 50_000, "mail without end": "a@" + "a." * 50_000, "lines": "\n" * 100_000,
    "bullets": "- " * 50_000, "numbers": "1. " * 30_000, "fences": "```json\n" * 10_000, "digits": "1-" * 50_000,
    "hyphens": "a-" * 50_000, "spaces": " " * 100_000 + "a", "brackets": "[" * 100_000, "open quotes": "“a" * 50_000,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_long_nonsense_takes_little_time(name):
    slow = {}
    for spec in TABLE:
        started = time.perf_counter()
        check_of(spec).share(LONG[name], ASKED)
        slow[spec] = time.perf_counter() - started
    assert {spec: seconds for spec, seconds in slow.items() if seconds > 20} == {}


@given(st.text(alphabet=st.characters(categories=["Lu", "Ll", "Zs", "Po"]), max_size=60))
def test_a_text_in_capitals_is_in_capitals(text):
    shouted, whispered = text.upper(), text.lower()
    cased = any(character.lower() != character.upper() for character in shouted)
    if cased and shouted.lower().upper() == shouted and all(c.isupper() for c in shouted if c.isalpha()):
        assert check_of("upper-case").share(shouted) == 1
        assert check_of("lower-case").share(shouted) == 0
    if cased and all(c.islower() for c in whispered if c.isalpha()):
        assert check_of("lower-case").share(whispered) == 1


@given(st.integers(1, 60), st.integers(1, 60))
def test_lengths_are_counted(n, limit):
    text = " ".join(["word"] * n)
    assert check_of(f"max-words:{limit}").rating(text) == (2 if n <= limit else int(limit / n >= 0.8))
    assert check_of(f"min-words:{limit}").rating(text) == (2 if n >= limit else int(n / limit >= 0.8))
    told = " ".join(["It is so."] * n)
    assert check_of(f"sentences:{limit}").rating(told) == (
        2 if n == limit else int(min(n, limit) / max(n, limit) >= 0.8)
    )


PLAIN = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(PLAIN, lambda part: st.lists(part) | st.dictionaries(st.text(), part)))
def test_whatever_json_writes_is_json(value):
    full = isinstance(value, (list, dict)) and len(value) > 0
    for text in (json.dumps(value), json.dumps(value, indent=2), json.dumps(value, ensure_ascii=False)):
        assert check_of("json").rating(text) == 2 * full


# languages

SENTENCES = """
en The otter lives in rivers and eats small fish. | Here are three tips for a healthy diet: eat more vegetables. | \
Sure! I can help you. | Yes, of course. | THE OTTER LIVES IN RIVERS AND EATS SMALL FISH. | def f(x): return x + 1
es La nutria vive en los ríos y come peces pequeños. | Claro, aquí tienes tres consejos para comer mejor. | \
Sí, por supuesto. | ¡Hola! ¿En qué puedo ayudarte hoy? | LA NUTRIA VIVE EN LOS RÍOS Y COME PECES PEQUEÑOS.
fr La loutre vit dans les rivières et mange de petits poissons. | Bien sûr, voici trois conseils. | Je ne sais pas.
de Der Otter lebt in Flüssen und frisst kleine Fische. | Natürlich, hier sind drei Ratschläge. | Ich weiß es nicht.
it La lontra vive nei fiumi e mangia piccoli pesci. | Certo, ecco tre consigli. | Non lo so.
pt A lontra vive nos rios e come peixes pequenos. | Claro, aqui estão três conselhos. | Não sei.
nl De otter leeft in rivieren en eet kleine vissen. | Natuurlijk, hier zijn drie tips.
sv Uttern lever i floder och äter små fiskar.
pl Wydra żyje w rzekach i je małe ryby.
tr Su samuru nehirlerde yaşar ve küçük balıklar yer.
ru Выдра живёт в реках и ест мелкую рыбу. | Конечно, вот три совета.
uk Видра живе в річках і їсть дрібну рибу.
zh 水獭生活在河流中,吃小鱼。 | 当然,这里有三个建议。 | 你好
ja カワウソは川に住み、小さな魚を食べます。 | もちろん、三つの助言があります。
ko 수달은 강에 살며 작은 물고기를 먹습니다. | 물론입니다. 세 가지 조언이 있습니다.
ar يعيش ثعلب الماء في الأنهار ويأكل الأسماك الصغيرة.
hi ऊदबिलाव नदियों में रहता है और छोटी मछलियाँ खाता है।
el Η ενυδρίδα ζει στα ποτάμια και τρώει μικρά ψάρια.
he הלוטרה חיה בנהרות ואוכלת דגים קטנים.
vi Rái cá sống ở sông và ăn cá nhỏ.
id Berang-berang hidup di sungai dan makan ikan kecil.
th นากอาศัยอยู่ในแม่น้ำและกินปลาตัวเล็ก
fi Saukko elää joissa ja syö pieniä kaloja.
da Odderen lever i floder og spiser små fisk.
cs Vydra žije v řekách a jí malé ryby.
"""  # noqa: RUF001
SPOKEN = [
    (line.partition(" ")[0], text)
    for line in SENTENCES.strip().splitlines()
    for text in line.partition(" ")[2].split(" | ")
]


def test_languages_are_told_apart(record_property):
    """Measured: 45 of 48 are sure to be what they are, and a Danish one is taken for Norwegian."""
    assert len(SPOKEN) == 48
    right = [(code, text) for code, text in SPOKEN if check_of(f"language:{code}").rating(text) == 2]
    record_property("languages_right", len(right))
    wrong = [
        (code, other, text)
        for code, text in SPOKEN
        for other in language_room.LANGUAGES
        if other != code and check_of(f"language:{other}").rating(text) > 0
    ]
    print(f"{len(right)} of {len(SPOKEN)} right; taken for another: {wrong}; missed: {sorted({*SPOKEN} - {*right})}")
    assert len(right) >= 42
    assert len(wrong) <= 2


def test_a_language_goes_by_code_or_name():
    for name in ("es", "ES", "Spanish", "spanish"):
        assert check_of(f"language:{name}").rating("La nutria vive en los ríos.") == 2
    with pytest.raises(InputError, match="'Klingon' is no language that can be told; give a code or an English name"):
        check_of("language:Klingon")


# grammar, on sentences that were written after the rules and that no rule was changed for

PAST = """
The gardener planted roses along the wall. | We visited the museum on Sunday. | Napoleon lost the battle of Waterloo.
The train arrived late, so we missed the concert. | He opened the letter and smiled. | Nobody answered the phone.
My brother broke his arm when he fell from the tree. | The ship sank within two hours. | I felt better after a nap.
They used to live in Paris. | She asked me whether I liked coffee. | The sun shone all day. | It snowed.
The engineers tested the bridge and found a crack. | You never told me that. | We had already eaten.
The teacher gave us a difficult exam. | The cat slept on the sofa. | He couldn't swim, but he jumped in.
Einstein published his theory in 1905. | Why did they leave? | The crowd cheered loudly. | I was reading a book.
The ancient Greeks built many temples. | Her voice trembled.
"""
PRESENT = """
The gardener plants roses along the wall. | We visit the museum every Sunday. | Water boils at one hundred degrees.
The train is late, so we miss the concert. | He opens the letter and smiles. | Nobody answers the phone.
A balanced diet includes vegetables and fruit. | The ship sinks slowly. | I feel better after a nap.
They live in Paris. | She asks me whether I like coffee. | The sun shines all day. | It will snow tomorrow.
Engineers test the bridge and find a crack. | You never tell me that. | We have already eaten.
First, preheat the oven and mix the flour with the sugar. | The cat sleeps on the sofa. | You can swim if you try.
Fried rice tastes best with fresh vegetables. | Why do they leave? | The crowd cheers loudly. | I am reading a book.
Learning a language takes time, but it pays off. | Her voice trembles.
"""
PASSIVE = """
The roses were planted by the gardener. | The museum was visited by thousands. | The battle was lost.
The concert has been cancelled. | The letter was opened. | The phone was never answered. | His arm got broken.
The ship will be repaired next month. | These cars are made in Japan. | The exam must be taken in June.
The bridge is being tested. | He was told to wait. | The theory was published in 1905. | The temple had been destroyed.
The bread is cut into slices. | I was asked a question. | The winners were chosen by a jury.
It can be seen from space. | The report was quickly written. | Nobody was hurt.
"""
ACTIVE = """
The gardener planted roses along the wall. | Thousands visit the museum. | They lost the battle.
She has cancelled the concert. | He opened the letter. | Nobody answered the phone. | He broke his arm.
They will repair the ship next month. | Japan makes these cars. | You must take the exam in June.
She is testing the bridge. | He was late. | Einstein published his theory. | The temple was old and beautiful.
We were very excited. | I got a letter from the office. | The jury is ready. | He is interested in space.
The report has been on my desk since Monday. | They are both doctors.
"""


def cut(block):
    return [sentence.strip() for line in block.strip().splitlines() for sentence in line.split(" | ")]


@pytest.mark.parametrize(
    ("spec", "with_it", "without", "found", "false"),
    [("past-tense", PAST, PRESENT, 23, 2), ("passive-voice", PASSIVE, ACTIVE, 18, 1)],
)
def test_grammar_is_mostly_right(spec, with_it, without, found, false, record_property):
    """Measured: all are found, and none where there is nothing; the bounds leave room for another release."""
    check = check_of(spec)
    yes, no = ([(text, check.share(text)) for text in cut(block)] for block in (with_it, without))
    missed = [text for text, share in yes if share < 0.5]
    fooled = [text for text, share in no if share >= 0.5]
    record_property(f"{spec} found", f"{len(yes) - len(missed)}/{len(yes)}, false {len(fooled)}/{len(no)}")
    print(
        f"{spec}: {len(yes) - len(missed)}/{len(yes)} found, missed {missed}; {len(fooled)}/{len(no)} false: {fooled}"
    )
    assert len(yes) - len(missed) >= found
    assert len(fooled) <= false
    whole = [" ".join(cut(block)) for block in (with_it, without)]
    assert [check.rating(text) for text in whole] == [2, 0]
    shouted = check.share(whole[0].upper())
    assert shouted >= check.rule.cuts.partly


def test_real_stories_are_told_in_the_past_and_in_english(shared):
    """A hundred stories for children with much direct speech. Measured: 90 rated 2 for the tense, 10 rated 1."""
    stories = json.loads((shared / "data" / "tinystories" / "tinystories_100.json").read_text(encoding="utf-8"))
    ratings = {spec: [check_of(spec).rating(text) for text in stories] for spec in ("past-tense", "language:en")}
    assert len(stories) == 100
    assert min(ratings["past-tense"]) >= 1
    assert ratings["past-tense"].count(2) >= 85
    assert ratings["language:en"].count(2) >= 98
    assert max(check_of("passive-voice").rating(text) for text in stories) == 0


# names and words


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("upper", "there is no rule 'upper' .*; there are upper-case"),
        ("uppercase", "did you mean 'upper-case'"),
        ("", "there is no rule ''"),
        ("json:5", "takes nothing behind it; write json"),
        ("max-words", "needs N behind a colon; write max-words:N"),
        ("max-words:", "needs N behind a colon"),
        ("emoji:", r"needs N behind a colon; write emoji\[:N\]"),
        ("max-words:many", "rule 'max-words:many': 'many' is no number"),
        ("max-words:0", "'0' is no number"),
        ("max-words:-3", "'-3' is no number"),
        ("max-words:2.5", "'2.5' is no number"),
        ("max-words:٣", "is no number"),
        ("emoji:x", "'x' is no number"),
        ("keyword:,", "there are no words behind the colon"),
        ("letter-ending:st", "'st' is no letter"),
        ("letter-ending:5", "'5' is no letter"),
    ],
)
def test_bad_specs_are_refused(spec, match):
    with pytest.raises(InputError, match=match):
        check_of(spec)


def test_specs_are_written_in_one_way():
    written = {
        " Upper-Case ": "upper-case", "max-words: 50 ": "max-words:50", "emoji": "emoji:1", "EMOJI:3": "emoji:3",
        "starts-with:Note: this": "starts-with:Note: this", "keyword:a, b": "keyword:a, b",
    }  # fmt: skip
    for spec, expected in written.items():
        assert check_of(spec).spec == expected
        assert check_of(expected).spec == expected


def test_the_list_names_every_rule_once():
    rules = list_rules()
    assert len({rule.name for rule in rules}) == len(rules) == 37
    page = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    for rule in rules:
        assert f"| `{rule.usage}` | {rule.summary} | {rule.cuts.partly:g} | {rule.cuts.wholly:g} |" in page
        assert rule.summary
        assert 0 < rule.cuts.partly < rule.cuts.wholly <= 1
        assert rule.usage.startswith(rule.name)
        assert (rule.argument is not None) or (rule.default is None)


def test_cuts():
    cuts = Cuts(0.5, 0.9)
    assert [cuts.rating(share) for share in (0, 0.49, 0.5, 0.89, 0.9, 1)] == [0, 0, 1, 1, 2, 2]


CONCEPTS = {
    "the response is in all capital letters": "upper-case",
    "The entire response should be in ALL CAPS.": "upper-case",
    "write only in uppercase letters": "upper-case",
    "all lowercase letters": "lower-case",
    "The answer is in lower case only, no capital letters": "lower-case",
    "every word is capitalized, as in title case": "title-case",
    "responds in Spanish": "language:spanish",
    "The response is written entirely in Chinese.": "language:chinese",
    "uses only the Korean language": "language:korean",
    "uses emojis": "emoji:1",
    "include at least three emojis in the response": "emoji:3",
    "contains 5 hashtags": "hashtag:5",
    "adds hashtags": "hashtag:1",
    "ends each sentence with an exclamation mark": "exclamation",
    "with many exclamation points": "exclamation",
    "consists only of questions": "questions-only",
    "provides URL citations": "url:1",
    "contains an email address": "email:1",
    "includes a phone number": "phone:1",
    "uses ISO dates": "iso-date:1",
    "contains quoted words": "quoted-words:1",
    "the entire response is wrapped in double quotation marks": "in-quotes",
    'starts with the phrase "Sure, here"': "starts-with:sure, here",
    "The response must begin with 'Once upon a time'": "starts-with:once upon a time",
    "ends with “That's all.”": "ends-with:that's all.",
    "each sentence ends with the letter s": "letter-ending:s",
    "ends with a postscript": "postscript",
    "adds a P.S. at the end": "postscript",
    'includes the keywords "ocean" and "sea"': "keyword:ocean,sea",
    'does not use the words "ocean" or "sea"': "no-keyword:ocean,sea",
    "formats the answer as JSON": "json",
    "is in JSON format": "json",
    "organized as a numbered list": "numbered-list:2",
    "uses bullet points": "bullet-list:2",
    "contains exactly 4 bullet points": None,
    "paragraphs are separated by double line breaks": "blank-lines",
    "sections separated by ***": "separators:1",
    "gives two different responses": "two-responses",
    "first repeats the user's request": "repeats-request",
    "is in the past tense": "past-tense",
    "written in the passive voice": "passive-voice",
    "uses at most 50 words": "max-words:50",
    "no more than fifty words": None,
    "no more than 50 words": "max-words:50",
    "must not exceed 50 words": "max-words:50",
    "fewer than 50 words": "max-words:49",
    "at least 200 words long": "min-words:200",
    "no fewer than 200 words": "min-words:200",
    "more than 200 words": "min-words:201",
    "consists of exactly three sentences": "sentences:3",
    "at most two sentences": "max-sentences:2",
    "consists of 4 paragraphs": "paragraphs:4",
    "uses no commas": "no-commas",
    "avoid using any commas": "no-commas",
    "do not use emojis": None,
    "without hashtags": None,
    "never writes in Spanish": None,
    "all lowercase letters and at most 50 words": None,
    "references to specific dates and publication information": None,
    "terms related to emoji in all caps": None,
    "mentions of Spanish cuisine": None,
    "the history of Spain": None,
    "in Spanish class": None,
    "polite": None,
    "": None,
    "max-words:20": "max-words:20",
    "json": "json",
}


@pytest.mark.parametrize("concept", CONCEPTS)
def test_concepts_in_words_find_their_rule_or_none(concept):
    expected = CONCEPTS[concept]
    if expected is None:
        with pytest.raises(
            InputError, match=r"(no rule checks|several rules .* check) the concept .*upper-case, lower-"
        ):
            check_for(concept)
        return
    assert check_for(concept).spec in (expected, f"{expected}:1", f"{expected}:2")


def test_most_rules_are_found_in_words():
    found = {check_for(concept).rule.name for concept, spec in CONCEPTS.items() if spec is not None}
    assert len(found) >= 34


def test_concepts_of_a_published_set_are_about_contents(shared):
    """All ten are contents, not form: none may be taken for a rule."""
    lines = (shared / "data" / "axbench-concept10" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    concepts = [json.loads(line)["concept"] for line in lines]
    assert len(concepts) == 10
    for concept in concepts:
        with pytest.raises(InputError, match="no rule checks the concept"):
            check_for(concept)


# the judge


def ask(text, concept, aspect="concept"):
    return Question(aspect, text, concept, ASKED)


def test_the_judge_rates_by_the_concepts_rule():
    judge = RuleJudge({"shouting": "upper-case", "json": "max-words:1"})
    told = []
    verdicts = judge.rate(
        [
            ask("THE SEA.", "shouting"),
            ask("the sea.", "shouting"),
            ask("THE SEA is deep.", "the response is in all capital letters"),
            ask("What is a comet? Ice.", "repeats-request"),
            ask('{"a": "b c"}', "json"),  # what is given goes before what it is called
        ],
        told.append,
    )
    assert [verdict.rating for verdict in verdicts] == [2.0, 0.0, 1.0, 2.0, 0.0]
    assert all(verdict.attempts == 1 and verdict.reply is None for verdict in verdicts)
    assert [progress.done for progress in told] == [1, 2, 3, 4, 5]
    assert judge.check("shouting").spec == "upper-case"
    assert judge.estimate([ask("x", "json")]) is None


@pytest.mark.parametrize(
    ("question", "match"),
    [
        (ask("x", "polite"), "no rule checks the concept 'polite'; name one of upper-case"),
        (ask("x", None), "no concept is named"),
        (ask("x", "json", "fluency"), "rules rate the concept alone, not 'fluency'"),
    ],
)
def test_what_it_cannot_judge_is_refused(question, match):
    with pytest.raises(InputError, match=match):
        RuleJudge().rate([question])


def test_a_bad_spec_is_refused_before_anything_is_rated():
    with pytest.raises(InputError, match="there is no rule 'shout'"):
        RuleJudge({"loud": "shout"})


def test_what_a_run_says_of_it():
    judge = RuleJudge({"b": "json", "a": "emoji"})
    identity = judge.identity
    assert identity["rules"] == {"a": "emoji:1", "b": "json"}
    assert identity["kind"] == judge.name == "rules"
    assert judge.aspects == {"concept"}
    assert set(identity["libraries"]) == {*LIBRARIES}
    assert json.loads(json.dumps(identity)) == identity
    assert RuleJudge().identity != identity


@pytest.mark.parametrize(
    ("spec", "modules", "reset"),
    [
        ("emoji", ["emoji"], marks_room._emoji_data),
        ("phone", ["phonenumbers"], None),
        ("language:es", ["py3langid", "py3langid.langid"], language_room._detector),
        ("past-tense", ["textblob", "textblob.en"], grammar_room._tagger),
        ("passive-voice", ["textblob", "textblob.en"], grammar_room._tagger),
    ],
)
def test_a_rule_without_its_package_says_how_to_install_it(spec, modules, reset, monkeypatch):
    if reset is not None:
        reset.cache_clear()
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    check = check_of(spec)
    with pytest.raises(MissingExtraError, match=rf"run pip install {modules[0]} \(trimtab's extra 'rules'"):
        check.share("The otter lived in rivers.")
