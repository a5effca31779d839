"""The one table of the console's pages: what it is called, its headings, and whoever's rows.

{% table title _("Window") _("Gateway") _("Missing here") figures="3" empty=_("None.") %}
  {% for one in windows %}<tr>…</tr>{% endfor %}
{% endtable %}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django import template
from django.template.loader import render_to_string
from django.utils.functional import Promise
from django.utils.safestring import SafeString

register = template.Library()


@register.filter
def then(wanted: object, heading: str) -> str | None:
    """The heading of a column that is there only for some: `changes|then:_("To do")`."""
    return heading if wanted else None


@register.simple_block_tag
def table(
    content: SafeString,
    label: str,
    *headings: Any,
    figures: Iterable[str | int] = (),
    empty: str = "",
    card: bool = False,
) -> SafeString:
    """A table that can be scrolled by keys where it is too wide; without rows it says `empty`.

    A heading may be a list of them. `figures` are the columns, from 1, whose headings stand at the
    right, above amounts: `"34"`. `card`: it has a frame of its own.
    """
    right = {int(nr) for nr in figures}
    given = {
        "rows": content if content.strip() else "",
        "label": label,
        "headings": [(text, nr in right) for nr, text in enumerate(_flat(headings), start=1)],
        "empty": empty,
        "card": card,
    }
    return render_to_string("console/table.html", given)


def _flat(headings: Iterable[Any]) -> Iterator[str | Promise]:
    for one in headings:
        if isinstance(one, str | Promise):
            yield one
        elif one is not None:
            yield from _flat(one)
