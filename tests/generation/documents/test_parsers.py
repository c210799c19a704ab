"""Parsers: sections with the path of their headings, in order, and nothing that surrounds them."""

from __future__ import annotations

import pytest

from cluster.errors import InputError
from generation.documents import formats
from generation.documents.document import DocumentError
from generation.documents.formats import check_parsers, is_document, parse
from tests.generation.documents.files import HTML, MARKDOWN, pdf_file, prose, word_file


def sections(name: str, data: bytes) -> list[tuple[str, str]]:
    return [(" > ".join(section.headings), section.text) for section in parse(name, data)]


def test_markdown_has_the_path_of_its_headings_and_no_marks():
    assert sections("guide.MD", MARKDOWN.encode()) == [
        ("Guide", "Welcome to the guide, see the site."),
        ("Guide > Install > Linux", "One command\non one line.\n\n# no heading\napt install pump"),
        ("Guide > Install > Windows", "first setup\n\nthen start\n\npart | weight\npump | 3 kg"),
        ("Guide > Underlined", "The end."),
    ]


def test_a_front_matter_s_title_stands_above_a_text_without_headings():
    assert sections("a.markdown", b"---\ntitle: 'Oak trees'\n---\nText.") == [("Oak trees", "Text.")]
    assert sections("a.md", b"Text.\n\n---\n\nMore.") == [("", "Text.\n\nMore.")]


def test_html_has_its_content_and_not_what_surrounds_it():
    assert sections("pumps.html", HTML.encode("cp1252")) == [
        ("Pumps", "A pump moves water uphill. It needs care."),
        ("Pumps > Größe", "small\n\nlarge\n\nsize | litres\n\nsmall | 3\n\non\n  off"),
    ]


def test_html_without_headings_has_the_page_s_title_and_its_main_part_alone():
    page = b"<title>Pumps</title><body><p>Menu</p><main><p>Content</p></main><p>More</p></body>"
    assert sections("a.htm", page) == [("Pumps", "Content")]


def test_html_may_be_nested_without_end():
    page = b"<body>" + b"<div>" * 20_000 + b"deep" + b"</div>" * 20_000
    assert [text for _, text in sections("a.html", page)] == ["deep"]


def test_word_files_have_headings_of_their_styles_and_tables_in_place():
    assert sections("h.docx", word_file()) == [
        ("Handbook > Oil", "Oil keeps the gear quiet."),
        ("Handbook > Oil > In winter", "Thin oil runs at ten degrees below zero.\n\noil | 5 W\nchange it in May"),
        ("Handbook > Belts", "A belt is changed every second year."),
    ]


def test_pdf_has_the_bookmarks_as_headings_and_no_running_titles():
    texts = [prose(topic, 3) for topic in ("pump", "motor", "brake")]
    found = sections("r.pdf", pdf_file([[text] for text in texts]))
    assert found == [(f"Chapter {number}", text) for number, text in enumerate(texts, 1)]


def test_a_sentence_that_goes_on_over_the_page_stays_one():
    pages = [["The valve of the pump"], ["is opened slowly. Then it"], ["is closed."]]
    assert sections("r.pdf", pdf_file(pages, bookmarks=False)) == [
        ("Repairs", "The valve of the pump is opened slowly. Then it is closed.")
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_text_is_read_in_its_encoding(encoding):
    text = "Die Größe der Öffnung hängt von der Schraube ab, für jede gibt es eine passende."
    assert sections("a.txt", f"{text}\r\nZweite Zeile".encode(encoding)) == [("", f"{text}\nZweite Zeile")]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.pdf", b"%PDF-1.4 nothing", "broken"),
        ("a.pdf", b"", "broken"),
        ("a.pdf", pdf_file([["secret"]], password="x"), "encrypted"),
        ("scan.pdf", pdf_file([[]] * 3, bookmarks=False), "no_text"),
        ("a.docx", b"PK\x03\x04 cut off", "broken"),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 with password", "encrypted"),
        ("a.txt", b"\x89PNG\0\0\0", "broken"),
        ("a.txt", b"  \n ", "no_text"),
        ("a.md", b"# Only a heading", "no_text"),
        ("a.html", b"<body><script>x</script></body>", "no_text"),
    ],
)
def test_a_file_without_text_has_a_reason(name, data, reason):
    with pytest.raises(DocumentError) as caught:
        parse(name, data)
    assert caught.value.reason == reason


def test_a_file_that_is_too_large_is_not_parsed(monkeypatch):
    monkeypatch.setattr(formats, "MOST_BYTES", 10)
    with pytest.raises(DocumentError) as caught:
        parse("a.txt", b"eleven bytes")
    assert caught.value.reason == "too_large"


def test_a_parser_that_is_not_installed_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"b\.pdf and other \.pdf files need the package pypdfium2.*listwise\[docum"):
        check_parsers(["a.txt", "b.pdf"])
    check_parsers(["a.txt"])


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("a.TXT", True), ("x/a.Pdf", True), ("._a.md", False), ("~$b.docx", False), ("a.doc", False), ("a.csv", False)],
)
def test_documents_are_known_by_their_endings(name, wanted):
    assert is_document(name) == wanted
