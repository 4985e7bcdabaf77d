"""The page of runs: what it says, what it refuses, and that texts of others stay texts."""

import json
import random
import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.report_runs import CONCEPTS, METHODS, headline, paper_identity, paper_summary, samples, summary, write_run
from trimtab.cli.compare import compare as compare_command
from trimtab.cli.report import report as report_command
from trimtab.errors import InputError
from trimtab.report.comparing import compare, interval
from trimtab.report.page.blocks import Heat, Measured, Point, Scatter
from trimtab.report.page.command import command_of, shorten
from trimtab.report.page.heats import view_heat, view_heats
from trimtab.report.page.identity import grouped, view_identity
from trimtab.report.page.lines import _apart
from trimtab.report.page.numbers import DASH, GROUP, MINUS, digits_for, fixed
from trimtab.report.page.page import make_page
from trimtab.report.page.palette import SERIES, STEPS, contrast, scheme
from trimtab.report.page.points import draw_scatter
from trimtab.report.page.reading import names_of, read_report
from trimtab.report.page.room import LARGEST, ROOMS
from trimtab.report.page.tables import step, view_table
from trimtab.report.page.texts import view_samples

VOID = {"meta", "link", "input", "br", "path", "circle", "use", "col"}


class Reader(HTMLParser):
    """Elements with their attributes, the ids, and the text that is seen."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.ids, self.text, self.open = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & {*self.open}:
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def html(run):
    return make_page([read_report(run)]).html


@pytest.fixture
def small(tmp_path):
    """A run with one table and one line."""
    series = [{"label": "s", "x": [1, 2], "y": [0.5, None]}]
    curve = {"id": "c", "title": "c", "x": "x", "y": "y", "series": series}
    return write_run(tmp_path / "small", changed(tables=[headline(random.Random(0))], curves=[curve]))


def page_of(tmp_path, found):
    return make_page([read_report(write_run(tmp_path / "run", found))]).html


def changed(**parts):
    """A small summary with some parts of its own."""
    return {"schema": 1, "protocol": "p", "title": "t", **parts}


def refused(tmp_path, found):
    with pytest.raises(InputError) as error:
        read_report(write_run(tmp_path / "run", found))
    assert "\n" not in str(error.value)
    assert "summary.json" in str(error.value)
    return str(error.value)


class TestPage:
    def test_it_is_well_formed_and_its_ids_are_its_own(self, html):
        reader = Reader(html)
        assert reader.open == []
        assert len(reader.ids) == len({*reader.ids})
        links = [attrs["href"][1:] for _, attrs in reader.elements if attrs.get("href", "").startswith("#")]
        assert {*links} <= {*reader.ids}
        assert {*re.findall(r"url\(#([^)]+)\)", html)} <= {*reader.ids}

    def test_it_asks_for_nothing_from_outside(self, html):
        for tag, attrs in Reader(html).elements:
            for name in ("src", "href", "action", "data", "srcset"):
                assert attrs.get(name, "#").startswith(("#", "data:")), (tag, attrs)
        assert "@import" not in html
        assert not re.search(r"url\((?!#)", html)

    def test_everything_that_the_summary_says_is_there(self, run, html):
        words, found = Reader(html).words, json.loads((run / "summary.json").read_text())
        config = json.loads((run / "config.json").read_text())
        for text in (found["title"], found["question"], *found["notes"], *CONCEPTS, *METHODS, config["hash"],
                     config["info"]["command"], "58\N{THIN SPACE}320"):  # fmt: skip
            assert " ".join(text.split()) in words
        for block in ("tables", "curves", "scatters", "heats"):
            for one in found[block]:
                assert one["title"] in words
        assert "212 replies of the judge could not be read (0.36 % of 58\N{THIN SPACE}320 ratings)" in html
        assert not any(contender["hash"] in words for contender in config["identity"]["contenders"])
        assert "Not shown here: the hash of each contender and concept. config.json has it whole." in words

    def test_every_figure_has_a_name_a_caption_and_its_numbers(self, html):
        figures = re.findall(r"<figure>.*?</figure>", html, flags=re.DOTALL)
        assert len(figures) == 6
        for figure in figures:
            assert "<figcaption>" in figure
            drawn = re.findall(r'<svg role="img" aria-label="([^"]+)"', figure)
            assert len(drawn) == 2 * ("Show the numbers" in figure)
            assert "<table" in figure or "no numbers to draw" in figure

    def test_figures_take_their_colours_and_fonts_from_the_page(self, html):
        drawn = "".join(re.findall(r'<svg role="img".*?</svg>', html, flags=re.DOTALL))
        tags = "".join(re.findall(r"<[^>]*>", drawn))
        assert not re.search(r"#[0-9a-f]{6}\b", tags)
        assert "DejaVu" not in tags
        sizes = re.findall(r"font(?:-size)?: (?:[a-z0-9]+ )*([\d.]+)px", tags)
        assert {float(size) for size in sizes} == {12}
        assert tags.count("var(--sans)") == len(sizes) > 100

    def test_its_bytes_are_those_of_its_runs(self, run, html):
        assert make_page([read_report(run)]).html == html

    def test_texts_of_others_stay_texts(self, tmp_path):
        evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)> \"' & $\\frac{1}{0}$"
        found = summary()
        text = json.dumps(found)
        for plain in ("cdas", "past-tense", "Dose and response, elicit", "score, elicit"):
            text = text.replace(json.dumps(plain), json.dumps(f"{plain} {evil}"))
        found = json.loads(text) | {"title": evil, "notes": [evil], "counts": {f"unreadable {evil}": 3}}
        found["samples"][0]["entries"][0]["text"] = evil
        found["tokens"][0]["texts"][0]["tokens"][1] = evil
        run = write_run(tmp_path / "run", found, identity={evil: [evil, {evil: None}]})
        html = make_page([read_report(run)]).html
        reader = Reader(html)
        tags = [tag for tag, _ in reader.elements]
        assert tags.count("script") == 1
        assert "img" not in tags
        assert not any(name.startswith("on") for _, attrs in reader.elements for name in attrs)
        assert " ".join(evil.split()) in reader.words
        assert reader.open == []

    def test_control_characters_and_half_surrogates_do_no_harm(self, tmp_path):
        found = summary()
        found["samples"][0]["entries"][0]["text"] = "a\x00b\ud800c"
        found["curves"][0]["series"][0]["label"] = "x\ud800\x01"
        assert page_of(tmp_path, found).encode("utf-8", errors="backslashreplace")

    def test_a_run_without_any_block_is_a_page(self, tmp_path):
        html = page_of(tmp_path, changed())
        assert "This run has no table." in html
        assert "<figure>" not in html
        assert "How to reproduce it" in html

    def test_several_runs_have_an_overview(self, small, tmp_path):
        other = write_run(tmp_path / "two", changed(tables=[headline(random.Random(1))]))
        html = make_page([read_report(small), read_report(other)]).html
        assert "2 evaluation runs" in html
        assert "p, side by side" in html
        assert Reader(html).open == []
        assert len(html.encode()) < LARGEST

    def test_runs_without_a_common_column_are_not_put_side_by_side(self, small, tmp_path):
        table = {"id": "a", "title": "b", "columns": [{"key": "z", "label": "z"}], "rows": []}
        other = write_run(tmp_path / "two", changed(tables=[table]))
        assert "side by side" not in make_page([read_report(small), read_report(other)]).html

    def test_a_large_run_stays_below_five_megabytes_and_says_what_is_left_out(self, tmp_path):
        draw = random.Random(0)
        page = make_page([read_report(write_run(tmp_path / "run", changed(samples=samples(draw, 120, sentences=20))))])
        assert 250_000 < len(page.html.encode()) < 600_000
        assert page.left_out > 1000
        assert f"{page.left_out:,}".replace(",", "\N{THIN SPACE}") + " more prompts are in the records" in page.html

    def test_many_runs_share_the_room(self, tmp_path):
        draw = random.Random(0)
        found = {"samples": samples(draw, prompts=12, sentences=20)}
        reports = [read_report(write_run(tmp_path / f"{k}", changed(**found))) for k in range(14)]
        page = make_page(reports)
        assert 1_000_000 < len(page.html.encode()) < LARGEST
        assert page.left_out > 0

    def test_no_run_is_no_page(self):
        with pytest.raises(InputError, match="no run"):
            make_page([])


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    command = "trimtab eval axbench /home/alice/a/vectors --judge-url https://judge.example.org:8443/v1?key=abc"
    path = tmp_path_factory.mktemp("paper") / "run"
    return read_report(write_run(path, paper_summary(), identity=paper_identity(), command=command))


@pytest.fixture(scope="module")
def paper_page(large):
    begun = time.process_time()
    return make_page([large]), time.process_time() - begun


class TestPaperScale:
    """500 concepts and 11 contenders."""

    def test_it_is_a_page_made_in_time(self, paper_page):
        made, seconds = paper_page
        assert 1_000_000 < len(made.html.encode()) < LARGEST
        assert seconds < 20
        reader = Reader(made.html)
        assert reader.open == []
        assert len(reader.ids) == len({*reader.ids})

    def test_it_shows_something_of_everything_and_says_what_stays(self, paper_page):
        made = paper_page[0]
        words = Reader(made.html).words
        assert len(re.findall(r'<table class="heat">', made.html)) == 22
        assert made.html.count("mean of all 500") == 22
        shown = re.findall(r"(\d+) more rows stay in summary\.json\.", words)
        assert len(shown) == 22
        assert all(460 <= int(more) < 500 for more in shown)
        assert "more rows stay in summary.json: this page has no room" in words
        assert "more prompts are in the records and not on this page" in words
        assert "more texts are in the summary and not on this page" in words
        assert "Not shown here: the ends of long lists, the hash of each contender and concept" in words

    def test_contenders_are_counted_and_not_listed(self, large, paper_page):
        html = paper_page[0].html
        assert not any(each["hash"] in html for each in large.identity["contenders"])
        assert not any(each["hash"] in html for each in large.identity["data"]["concepts"])
        found = grouped(large.identity)["contenders"]
        assert [(each["label"], each["concepts"]) for each in found] == [
            (label, 500) for label in dict.fromkeys(each["label"] for each in large.identity["contenders"])
        ]
        assert "500 different ones, by concept" in html
        assert ">476 more<" in html

    def test_nobody_learns_where_it_ran(self, paper_page):
        html = paper_page[0].html
        assert "alice" not in html
        assert "token=abc" not in html
        assert "key=abc" not in html
        assert "word@" not in html
        assert "axbench ~/a/vectors --judge-url https://judge.example.org<" in html
        assert "config.json has the line as it was typed" in html

    @pytest.mark.slow
    def test_several_share_the_room(self, large):
        page = make_page([replace(large, name=f"run {k}") for k in range(4)])
        assert 1_000_000 < len(page.html.encode()) < LARGEST
        assert page.html.count("How to reproduce it</h3>") == 4

    def test_no_run_is_too_large(self, tmp_path):
        """Each part alone far beyond a page: long words everywhere, and as many of them as there may be."""
        long = "long " * 4_000
        names = [f"{k} {long[:600]}" for k in range(300)]
        heat = {"id": "h", "title": long, "row_label": "r", "column_label": "c", "rows": names, "columns": names,
                "values": [[-1.5] * 300] * 300}  # fmt: skip
        table = {"id": "t", "title": long, "columns": [{"key": n, "label": n} for n in names],
                 "rows": [{"label": n, "values": {names[0]: long[:900]}} for n in names]}  # fmt: skip
        points = [{"label": n, "x": k, "y": k} for k, n in enumerate(names * 4)]
        scatter = {"id": "s", "title": long, "x": "x", "y": "y", "points": points}
        line = {"x": [1], "y": [1]}
        curve = {"id": "c", "title": long, "x": "x", "y": "y", "series": [{"label": n, **line} for n in names]}
        found = changed(
            title=long, question=long, notes=[long] * 300, counts=dict.fromkeys(names, 3), heats=[heat] * 6,
            tables=[table] * 6, scatters=[scatter] * 3, curves=[curve] * 3,
        )  # fmt: skip
        identity = {name: [[long[:900]] * 5] * 5 for name in names}
        page = make_page([read_report(write_run(tmp_path / "run", found, identity=identity, command=long))])
        assert len(page.html.encode()) < LARGEST
        assert "stay in summary.json: this page has no room for all of them" in page.html

    @pytest.mark.slow
    def test_the_smallest_room_holds_many_runs(self, large):
        page = make_page([replace(large, name=f"run {k}", curves=(), scatters=()) for k in range(20)])
        assert len(page.html.encode()) < LARGEST
        assert page.html.count("How to reproduce it</h3>") == 20


class TestHeats:
    def heat(self, rows=100, columns=2):
        values = tuple(tuple(float(k) for _ in range(columns)) for k in range(rows))
        names = [tuple(f"{what}{k}" for k in range(n)) for what, n in (("row", rows), ("column", columns))]
        return Heat("i", "t", "", "r", "c", *names, values)

    def test_up_to_sixty_rows_are_shown_whole_and_in_their_order(self):
        view = view_heat(self.heat(60))
        assert [label for label, _ in view.rows] == [f"row{k}" for k in range(60)]
        assert view.left_out == ""

    def test_of_more_the_ends_are_shown_behind_the_mean_of_all(self):
        view = view_heat(self.heat(100))
        labels = [label for label, _ in view.rows]
        assert labels == [
            "mean of all 100", *(f"row{k}" for k in range(99, 79, -1)), *(f"row{k}" for k in range(19, -1, -1)),
        ]  # fmt: skip
        assert [exact for _, _, exact in view.rows[0][1]] == ["49.5", "49.5"]
        assert "60 more rows stay in summary.json" in view.left_out
        assert view.ends == ("0", "99")

    def test_rows_without_a_value_are_not_an_end(self):
        heat = self.heat(100)
        view = view_heat(replace(heat, values=((None, None), *heat.values[1:])))
        assert "row0" not in [label for label, _ in view.rows]
        assert view.missing == "2 cells have no value"

    def test_of_many_columns_the_ends_are_shown_in_their_order(self):
        heat = replace(self.heat(2, 100), values=(tuple(map(float, range(100))),) * 2)
        view = view_heat(heat)
        assert view.columns == tuple(f"column{k}" for k in (*range(20), *range(80, 100)))
        assert view.rows[0][1][20][2] == "80"
        assert "Of 100 columns the 40" in view.left_out

    def test_all_share_one_budget(self):
        heats = [self.heat(50, 10)] * 8
        whole, none = view_heats(heats, 10_000_000)
        assert ([len(view.rows) for view in whole], none) == ([50] * 8, 0)
        fewer, none = view_heats(heats, 120_000)
        assert none == 0
        assert all(3 <= len(view.rows) < 50 for view in fewer)
        assert all(view.left_out for view in fewer)
        assert view_heats(heats, 0) == ([], 8)


class TestWhatIsPublic:
    @pytest.mark.parametrize(
        ("given", "shown"),
        [
            ("/home/alice/work/runs/one", "…/runs/one"), ("/home/alice/runs/one", "~/runs/one"), ("/home/alice", "~"),
            ("~/work/deep/runs/one", "…/runs/one"), ("~alice/x", "~/x"), ("/root/a", "~/a"), ("/Users/al/x", "~/x"),
            ("C:\\Users\\al\\x\\y\\z", "…/y/z"), ("/data/store/models/gemma", "…/models/gemma"), ("/tmp/x", "/tmp/x"),
            ("cdas=/home/alice/vec/sea/cdas", "cdas=…/sea/cdas"), ("--out=/srv/a/b/c", "--out=…/b/c"),
            ("a=/x/y/z,b=/p/q/r", "a=…/y/z,b=…/q/r"), ("/home/al/My Files/x/y", "…/x/y"),
            ("https://u:p@host.org:8000/v1/chat?key=1#x", "https://host.org"), ("http://localhost:80", "http://localhost"),
            ("http://[::1]:80/v1", "http://[::1]"), ("--url=https://h/v1", "--url=https://h"), ("s3://b/k/e/y", "s3://b"),
            ("file:///home/alice/x/y/z", "file://…/y/z"), ("runs/a/b/c", "runs/a/b/c"), ("and/or", "and/or"),
            ("google/gemma-2-2b-it", "google/gemma-2-2b-it"), ("he / she / they / it", "he / she / they / it"),
        ],
    )  # fmt: skip
    def test_paths_and_addresses_are_shortened(self, given, shown):
        assert shorten(given) == shown

    def test_a_command_that_says_nothing_stays_as_it_was_typed(self):
        assert command_of({"command": "trimtab  eval 'a b' --out runs/x"}) == (
            "trimtab  eval 'a b' --out runs/x",
            False,
        )
        assert command_of({"command": ["trimtab", "a b"]}) == ("trimtab 'a b'", False)
        assert command_of({}) == (None, False)

    def test_what_is_shortened_keeps_its_quotes(self):
        command = "trimtab eval 'l=/home/al/a b/c' --text 'say it' --model /m/n/o"
        assert command_of({"command": command}) == ("trimtab eval 'l=~/a b/c' --text 'say it' --model …/n/o", True)
        assert command_of({"command": "trimtab 'torn /home/al/x"})[0] == "trimtab ''\"'\"'torn' ~/x"

    def test_contenders_of_few_settings_are_told_apart(self):
        contenders = [{"label": "a", "concept": c, "method": "m", "settings": {"lr": lr}, "hash": "0"}
                      for c in "xyz" for lr in (1, 2)]  # fmt: skip
        assert grouped({"contenders": contenders})["contenders"] == [
            {"label": "a", "method": "m", "settings": {"lr": lr}, "concepts": 3} for lr in (1, 2)
        ]
        many = [{**each, "layers": [k]} for k, each in enumerate(contenders)]
        assert grouped({"contenders": many})["contenders"] == [
            {"label": "a", "method": "m", "settings": {"lr": "2 different ones, by concept"},
             "layers": "6 different ones, by concept", "concepts": 3}
        ]  # fmt: skip

    @pytest.mark.parametrize("room", ROOMS)
    def test_the_identity_keeps_to_its_room(self, room):
        identity = {f"key {k}": {"list": [{"a": "x" * 500}] * 100} for k in range(100)}
        view = view_identity(identity, room.identity)
        assert len(json.dumps(view.value)) < room.identity
        assert "config.json has it whole" in view.left_out


class TestSamples:
    def test_every_concept_and_way_keeps_as_many(self, tmp_path):
        found = samples(random.Random(1), prompts=30)
        report = read_report(write_run(tmp_path / "run", changed(samples=found)))
        view = view_samples(report.samples, 100_000)
        kept = [sample for _, group in view.groups for sample in group]
        counts = [sum(s.concept == c and s.way == w for s in kept) for c in CONCEPTS for w in ("elicit", "suppress")]
        assert view.left_out == len(found) - sum(counts) > 0
        assert max(counts) - min(counts) <= 1
        assert [concept for concept, _ in view.groups] == list(CONCEPTS)

    def test_a_long_text_is_cut_and_says_so(self, html):
        assert re.search(r"word … \[6\N{THIN SPACE}\d\d\d more characters\]|… \[\S+ more characters\]", html)

    def test_a_missing_rating_is_not_zero(self, html):
        assert '<li class="missing" title="the reply of the judge could not be read">concept <b>unread</b></li>' in html


class TestReading:
    def test_it_needs_a_finished_run(self, tmp_path):
        with pytest.raises(InputError, match="no directory"):
            read_report(tmp_path / "absent")
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match=r"config\.json"):
            read_report(tmp_path / "empty")
        with pytest.raises(InputError, match="not finished; start the same"):
            read_report(write_run(tmp_path / "begun", False))
        run = write_run(tmp_path / "torn")
        (run / "summary.json").write_text('{"schema": 1, "tab')
        with pytest.raises(InputError, match=r"summary\.json"):
            read_report(run)

    @pytest.mark.parametrize(
        ("found", "names"),
        [
            ({"schema": 2, "protocol": "p", "title": "t"}, "schema is 2"),
            ({"schema": 1, "protocol": "p"}, "has no 'title'"),
            (changed(curve=[]), "curve is not known"),
            (changed(notes="text"), "notes is 'text'"),
            (changed(notes=[3]), "notes[0] is 3"),
            (changed(counts={"a": {"b": "many"}}), "counts.a.b is 'many'"),
            (changed(tables=[{"id": "a", "title": "b", "rows": []}]), "tables[0] has no 'columns'"),
            (
                changed(tables=[{"id": "a", "title": "b", "columns": [{"key": "k", "label": "k", "better": "up"}],
                                 "rows": []}]),
                "tables[0].columns[0].better is 'up'",
            ),
            (
                changed(tables=[{"id": "a", "title": "b", "columns": [{"key": "k", "label": "k"}],
                                 "rows": [{"label": "r", "values": {"other": None}}]}]),
                "tables[0].rows[0].values.other is not known",
            ),
            (
                changed(tables=[{"id": "a", "title": "b", "columns": [{"key": "k", "label": "k"}],
                                 "rows": [{"label": "r", "values": {"k": {"value": 1, "low": 0}}}]}]),
                "both ends or neither",
            ),
            (
                changed(curves=[{"id": "a", "title": "b", "x": "x", "y": "y",
                                 "series": [{"label": "s", "x": [1, 2], "y": [1]}]}]),
                "curves[0].series[0].y has 1 entries",
            ),
            (
                changed(curves=[{"id": "a", "title": "b", "x": "x", "y": "y",
                                 "series": [{"label": "s", "x": [1], "y": [True]}]}]),
                "curves[0].series[0].y[0] is True",
            ),
            (
                changed(heats=[{"id": "a", "title": "b", "row_label": "r", "column_label": "c", "rows": ["1"],
                                "columns": ["1", "2"], "values": [[1.0]]}]),
                "heats[0].values[0] has 1 entries",
            ),
            (
                changed(tokens=[{"label": "l", "concept": "c", "negative": -1, "positive": 1,
                                 "texts": [{"category": "c", "tokens": ["a", "b"], "values": [1]}]}]),
                "tokens[0].texts[0].values has 1 entries",
            ),
        ],
    )  # fmt: skip
    def test_a_fault_is_named_by_file_and_key(self, tmp_path, found, names):
        assert names in refused(tmp_path, found)

    def test_numbers_that_json_lacks_are_refused(self, tmp_path):
        found = changed(counts={"n": float("nan")})
        assert "counts.n is nan" in refused(tmp_path, found)

    def test_names_are_as_long_as_it_takes(self, tmp_path):
        paths = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "c"]
        assert names_of(paths[1:]) == ["run", "c"]
        assert names_of(paths)[:2] == ["a/run", "b/run"]
        with pytest.raises(InputError, match="twice"):
            names_of([paths[0], paths[0]])


class TestNumbers:
    @pytest.mark.parametrize(
        ("value", "digits", "text"),
        [
            (1.23456, 2, "1.23"), (-0.5, 1, f"{MINUS}0.5"), (0, 2, "0.00"), (0.0004, 2, "< 0.01"),
            (-0.0004, 2, f"> {MINUS}0.01"), (12345.678, 2, f"12{GROUP}346"), (1234.56, 3, f"1{GROUP}234.6"),
            (None, 2, DASH), (3.0, 0, "3"), (2e15, 1, "2.0e+15"), (-0.0, 1, "0.0"), (-2.5e-13, 1, "0.0"),
        ],
    )  # fmt: skip
    def test_fixed(self, value, digits, text):
        assert fixed(value, digits) == text

    def test_digits_tell_numbers_apart(self):
        assert digits_for([1, 2, 300]) == 0
        assert digits_for([0.001, 0.002]) == 4
        assert digits_for([0.0, 1.5, 40.2]) == 1
        assert digits_for([]) == 0

    def test_labels_are_moved_apart_and_no_further(self):
        places = _apart({0: 100.0, 1: 102.0, 2: 101.0, 3: 200.0}, 16)
        assert places == {0: 85.0, 2: 101.0, 1: 117.0, 3: 200.0}

    def test_a_scale_has_a_middle_and_ends(self):
        assert [step(v, -3, 5) for v in (-9, -3, 1, 5, 9)] == [0, 0, STEPS // 2, STEPS - 1, STEPS - 1]
        assert step(1, 5, -3) == STEPS // 2
        assert step(5, 5, -3) == 0
        assert step(2, 2, 2) == STEPS // 2

    def test_a_heat_of_both_signs_turns_at_zero(self):
        heat = Heat("i", "t", "", "r", "c", ("a",), ("x", "y", "z"), ((-1.0, 0.0, 4.0),))
        view = view_heat(heat)
        assert [ground for _, ground, _ in view.rows[0][1]] == ["turn-8", "turn-10", "turn-20"]
        assert view.ends == ("\N{MINUS SIGN}4", "0", "4")


class TestColours:
    @pytest.mark.parametrize("name", ["light", "dark"])
    def test_everything_can_be_read(self, name):
        colours = scheme(name)
        for ink in ("ink", "muted", "accent"):
            assert contrast(colours[ink], colours["ground"]) >= 4.5
        assert contrast(colours["warn-ink"], colours["warn-ground"]) >= 4.5
        for series in SERIES:
            assert contrast(colours[series], colours["ground"]) >= 4.5
        for scale in ("heat", "turn"):
            for number in range(STEPS):
                assert contrast(colours[f"{scale}-ink-{number}"], colours[f"{scale}-{number}"]) >= 4.5

    def test_contrast_is_that_of_wcag(self):
        assert contrast("#000000", "#ffffff") == pytest.approx(21)
        assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


class TestComparing:
    def reports(self, tmp_path, *tables):
        return [read_report(write_run(tmp_path / f"run{k}", changed(tables=[table]))) for k, table in enumerate(tables)]

    def test_rows_stand_label_by_label(self, tmp_path):
        draw = random.Random(0)
        one, other = headline(draw, METHODS[:3]), headline(draw, METHODS[1:4])
        other["columns"] = other["columns"][1:]
        for row in other["rows"]:
            del row["values"]["elicit"]
        found = compare(self.reports(tmp_path, one, other))
        assert [(row.label, view[0].text) for row, (_, view) in
                zip(found.table.rows, view_table(found.table).rows, strict=True)] == [
            ("cdas", "run0"), ("das", "run0"), ("das", "run1"), ("diffmean", "run0"), ("diffmean", "run1"),
            ("reps", "run1"),
        ]  # fmt: skip
        assert "elicit" not in [column.key for column in found.table.columns]

    def test_the_interval_of_a_difference_is_that_of_mover(self):
        low, high = interval(Measured(1.0, 0.7, 1.4), Measured(2.0, 1.6, 2.3))
        assert low == pytest.approx(1 - (0.4**2 + 0.4**2) ** 0.5)
        assert high == pytest.approx(1 + (0.3**2 + 0.3**2) ** 0.5)
        assert interval(Measured(1.0), Measured(2.0, 1, 3)) == (None, None)

    def test_what_exceeds_its_interval(self, tmp_path):
        def table(value, half, kl):
            return {
                "id": "h", "title": "h", "columns": [{"key": "s", "label": "score", "better": "higher"},
                                                     {"key": "kl", "label": "KL", "better": "lower"}],
                "rows": [{"label": "a", "values": {"s": {"value": value, "low": value - half, "high": value + half},
                                                   "kl": {"value": kl}}}],
            }  # fmt: skip

        far = compare(self.reports(tmp_path / "x", table(1, 0.1, 0.5), table(1.2, 0.1, 0.5))).differences
        near = compare(self.reports(tmp_path / "y", table(1, 0.1, 0.5), table(1.1, 0.1, 0.7))).differences
        assert [one.exceeds for one in far] == [True, None]
        assert [one.exceeds for one in near] == [False, None]
        assert [one.change for one in near] == ["better", "worse"]

    def test_nothing_in_common_is_refused(self, tmp_path):
        tables = [{"id": "a", "title": "b", "columns": [{"key": k, "label": k}], "rows": []} for k in "zy"]
        with pytest.raises(InputError, match="no column in common"):
            compare(self.reports(tmp_path, *tables))
        with pytest.raises(InputError, match="at least two"):
            compare(self.reports(tmp_path / "x", tables[0]))


class TestCommands:
    def test_report_writes_a_page_once(self, small, tmp_path, capsys):
        out = tmp_path / "sub" / "report.html"
        report_command([small], out, json_output=True)
        printed = json.loads(capsys.readouterr().out)
        assert printed == {"report": str(out), "runs": ["small"], "bytes": out.stat().st_size, "left_out": 0}
        before = out.read_bytes()
        with pytest.raises(InputError, match="--overwrite"):
            report_command([small], out)
        report_command([small], out, overwrite=True)
        assert out.read_bytes() == before
        assert [path.name for path in out.parent.iterdir()] == ["report.html"]
        with pytest.raises(InputError, match="is a directory"):
            report_command([small], tmp_path, overwrite=True)

    def test_compare_prints_the_table_and_what_differs(self, run, tmp_path, capsys):
        found = summary()
        found["tables"][0]["rows"][0]["values"]["elicit"] = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9}
        other = write_run(tmp_path / "two", found)
        compare_command([run, other])
        printed = capsys.readouterr().out
        assert "score, elicit" in printed
        (line,) = [line for line in printed.splitlines() if line.startswith("  cdas")]
        assert re.fullmatch(r"  cdas, score, elicit: 1\.\d\d -> 0\.20 \(-1\.\d\d \[-1\.\d\d, -1\.\d\d\]: worse\)", line)
        compare_command([run, other], json_output=True)
        parsed = json.loads(capsys.readouterr().out)
        assert [(one["label"], one["column"]) for one in parsed["differences"] if one["exceeds"]] == [
            ("cdas", "elicit")
        ]
        assert {row["run"] for row in parsed["rows"]} == {"one", "two"}

    def test_the_page_travels_with_the_package(self):
        from importlib import resources

        for name in ("template.html.j2", "macros.html.j2", "style.css", "page.js"):
            assert resources.files("trimtab.report.page").joinpath(name).is_file()


@pytest.mark.parametrize("width", [760, 328])
def test_a_logarithmic_axis_has_plain_figures(width):
    """Matplotlib writes powers as mathematics, of which an SVG with real text shows the source."""
    spread = tuple(Point(f"m{k}", 10.0**-k, k / 2, None, None, None, None) for k in range(5))
    figure = draw_scatter(Scatter("s", "S", "", "x", "y", "lower", "higher", spread), width, "salt")
    texts = re.findall(r">([^<>]+)</text>", str(figure.svg))
    assert "0.01" in texts
    assert not [text for text in texts if "$" in text or "\\" in text]
