"""The strings of pages, and the catalogs that translate them.

`python -m config.messages` brings `locale/` up to date with templates and code: new strings arrive
empty, lost ones leave. The strings are English; every other language has a catalog.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract
from babel.messages.pofile import read_po, write_po
from django.utils.translation.template import templatize

BASE = Path(__file__).resolve().parent.parent
CODE = ("subscriptions", "metering", "billing", "config")
KEYWORDS = {
    **DEFAULT_KEYWORDS,
    "now_": None,  # gettext, where `_` is gettext_lazy
    "gettext_lazy": None,
    "ngettext_lazy": (1, 2),
    "pgettext_lazy": ((1, "c"), 2),
    "npgettext_lazy": ((1, "c"), 2, 3),
}
# What a catalog's head says of the day and of nobody.
_NOISE = tuple(
    f'"{name}:'
    for name in (
        *("Report-Msgid-Bugs-To", "POT-Creation-Date", "PO-Revision-Date", "Last-Translator"),
        *("Language-Team", "Generated-By"),
    )
)


def strings() -> Catalog:
    """Every string that is to be translated."""
    catalog = Catalog()
    for path, source in _sources():
        place = path.relative_to(BASE).as_posix()
        options = {"encoding": "utf-8"}
        found = extract("python", io.BytesIO(source.encode()), KEYWORDS, options=options)
        for line, message, _, context in found:
            catalog.add(message, locations=[(place, line)], context=context)
    return catalog


def catalogs() -> list[Path]:
    return sorted((BASE / "locale").glob("*/LC_MESSAGES/django.po"))


def read(path: Path) -> Catalog:
    with path.open("rb") as file:
        return read_po(file, locale=path.parts[-3])


def _sources() -> Iterator[tuple[Path, str]]:
    for path in sorted((BASE / "templates").rglob("*.html")):
        # What stands around the strings is blanked out, but for its line breaks: what is left has
        # to begin at the margin for Python's tokenizer.
        blanked = templatize(path.read_text(), origin=path.name)
        yield path, "\n".join(line.strip() for line in blanked.split("\n"))
    for folder in CODE:
        for path in sorted((BASE / folder).rglob("*.py")):
            text = path.read_text()
            if "gettext" in text:
                yield path, text


def main() -> None:
    wanted = strings()
    for path in catalogs():
        catalog = read(path)
        catalog.update(wanted, no_fuzzy_matching=True)
        catalog.obsolete.clear()
        written = io.BytesIO()
        write_po(written, catalog, no_location=True, width=100)
        lines = written.getvalue().decode().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith(_NOISE)))
        # Of a plural the string is a tuple of its forms.
        empty = sum(1 for each in catalog if each.id and not (each.string and all(each.string)))
        print(f"{path.relative_to(BASE)}: {len(catalog)} strings, {empty} to translate")


if __name__ == "__main__":
    main()
