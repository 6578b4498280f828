"""Holds bench/report to its page: well-formed, one chart for each figure, nothing unescaped, errors that name the line.

Usage: report_test.py REPOSITORY. Exits 1 with the first thing that is wrong.
"""
import html.parser
import pathlib
import subprocess
import sys
import tempfile

ROWS = """{"processor": "A <fast> & small one", "isa": "avx2", "read_gb_per_s": 30.5}
{"suite": "linear", "kernel": "AVX2", "weights": "bf16", "m": 1, "n": 64, "us": 12.5, "of_read": 0.5, "of_rate": 0}
{"suite": "linear", "kernel": "AVX2", "weights": "bf16", "m": 8, "n": 64, "us": 20, "of_read": 1.25, "of_rate": 0}

{"suite": "conv", "kernel": "AVX2", "rows": 1, "us": 3.5}
"""
VOID = {"meta", "rect", "line"}


class Page(html.parser.HTMLParser):
    """Counts tags, and holds that each closes what is open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.words: list[str] = []
        self.widths: list[float] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag == "rect":
            self.widths.append(float(dict(attrs)["width"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def run(script: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)


def check_page(made: str) -> None:
    page = Page()
    page.feed(made)
    page.close()
    assert not page.open, f"left open: {page.open}"
    # us and of_read of linear, us of conv; of_rate is 0 everywhere and shows nothing.
    assert page.count["svg"] == 3, page.count
    assert page.count["table"] == 3, page.count
    assert page.count["line"] == 1, "one chart is of shares"
    assert "A <fast> & small one" in page.words, page.words
    assert "bf16, m 8, n 64" in page.words, page.words
    share = page.widths[:2]
    assert abs(share[1] / share[0] - 2.5) < 0.01, f"bars of 0.5 and 1.25 are {share} wide"


def main() -> None:
    script = pathlib.Path(sys.argv[1]) / "bench" / "report"
    with tempfile.TemporaryDirectory() as folder:
        rows = pathlib.Path(folder) / "rows.json"
        rows.write_text(ROWS, encoding="utf-8")
        done = run(script, str(rows))
        assert done.returncode == 0, done.stderr
        check_page(done.stdout)
        out = pathlib.Path(folder) / "page.html"
        assert run(script, str(rows), "--out", str(out)).returncode == 0
        assert out.read_text(encoding="utf-8") == done.stdout
        for content, place in (("{}\n{", "bad.json:2: "), ("3\n", "bad.json:1: not an object"), ("\n", "no rows")):
            bad = pathlib.Path(folder) / "bad.json"
            bad.write_text(content, encoding="utf-8")
            refused = run(script, str(bad))
            assert refused.returncode == 1 and place in refused.stderr, refused.stderr


if __name__ == "__main__":
    main()
