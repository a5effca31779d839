"""How form fields look."""

from __future__ import annotations

from django import template
from django.forms import BoundField
from django.utils.safestring import SafeString

register = template.Library()

_LOOKS = {
    "checkbox": "checkbox",
    "select": "select w-full",
    "textarea": "textarea w-full",
    "radioselect": "",
}


@register.filter
def styled(field: BoundField) -> SafeString:
    """The field's control; its label stands above it, so that it needs no placeholder."""
    look = _LOOKS.get(field.widget_type, "input w-full")
    if field.errors:
        look += f" {look.partition(' ')[0]}-error"
    field.field.widget.attrs.pop("placeholder", None)
    return field.as_widget(attrs={"class": look})
