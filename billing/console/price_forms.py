"""The forms of the plan builder: a plan's terms, and the weights of a rate card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, cast

from django import forms
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from djmoney.money import Money

from billing.prices import comparing
from billing.prices.terms import CardTerms
from subscriptions import catalog
from subscriptions.catalog import Component, PlanTerms
from subscriptions.outcomes import USUAL, USUALLY_FREE, Billing, Outcome, free
from subscriptions.policies import Tier, Window
from subscriptions.units import THOUSANDTHS

# A call that was answered whole is never free.
_MAY_BE_FREE = {
    Outcome.CLIENT_GONE.value: gettext_lazy("Free: the caller hung up"),
    Outcome.UPSTREAM_ERROR.value: gettext_lazy("Free: the model failed"),
    Outcome.CACHED_REPLAY.value: gettext_lazy("Free: answered by the gateway's cache"),
    Outcome.BLOCKED.value: gettext_lazy("Free: refused by the gateway"),
}
# Terms that the form asks for as they are.
_AS_SAID = (
    *("requests_per_minute", "tokens_per_minute", "limits_fail_closed", "degrade_model"),
    *("degrade_tokens_per_minute", "trial_days", "converts_to", "pause_plan", "suspends"),
    "tax_category",
)
_MOST_PARTS = 20
_CODE = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class _Part(NamedTuple):
    """A part of the price, as a line of the form says it."""

    name: str
    price: Decimal
    percent: Decimal
    category: str


def _units(label: Any, help_text: Any, *, required: bool = False) -> forms.DecimalField:
    return forms.DecimalField(
        min_value=0,
        max_value=Decimal(10**12),
        decimal_places=3,
        required=required,
        label=label,
        help_text=help_text,
    )


def _money(
    label: Any, help_text: Any, *, required: bool = False, places: int = 2
) -> forms.DecimalField:
    return forms.DecimalField(
        min_value=0,
        max_value=Decimal(10**9),
        decimal_places=places,
        required=required,
        label=label,
        help_text=help_text,
    )


def _count(label: Any, help_text: Any) -> forms.IntegerField:
    return forms.IntegerField(
        min_value=1, max_value=10**9, required=False, label=label, help_text=help_text
    )


def _text(label: Any, help_text: Any) -> forms.CharField:
    return forms.CharField(max_length=128, required=False, label=label, help_text=help_text)


def _yes(label: Any, help_text: Any, *, initial: bool = False) -> forms.BooleanField:
    return forms.BooleanField(required=False, initial=initial, label=label, help_text=help_text)


def _choices(term: str) -> list[tuple[str, str | Promise]]:
    return list(comparing.VALUES[term].items())


class PlanForm(forms.Form):
    code = forms.RegexField(
        _CODE,
        label=gettext_lazy("Identifier"),
        help_text=gettext_lazy("How systems call the plan; a further version has the same."),
    )
    name = forms.CharField(
        max_length=200, label=gettext_lazy("Name"), help_text=gettext_lazy("As customers read it.")
    )
    price = _money(gettext_lazy("Price"), gettext_lazy("Of a period, tax included."), required=True)
    allowance = _units(
        gettext_lazy("Units included"),
        gettext_lazy("In each period; a token of weight 1 is one unit."),
        required=True,
    )
    rate_card = forms.ChoiceField(
        label=gettext_lazy("Rate card"),
        help_text=gettext_lazy("What a token of each model weighs."),
    )
    cycle = forms.ChoiceField(
        choices=_choices("cycle"),
        label=gettext_lazy("Cycle"),
        help_text=gettext_lazy("When a period begins."),
    )
    first_month = forms.ChoiceField(
        choices=_choices("first_month"),
        label=gettext_lazy("First month"),
        help_text=gettext_lazy("Of who buys in the middle of a calendar month."),
    )
    collect = forms.ChoiceField(
        choices=_choices("collect"),
        label=gettext_lazy("Collected"),
        help_text=gettext_lazy("When it is due."),
    )
    rollover = forms.ChoiceField(
        choices=_choices("rollover"),
        label=gettext_lazy("Left over at the end"),
        help_text=gettext_lazy("Of the units included."),
    )
    on_exhaustion = forms.ChoiceField(
        choices=_choices("on_exhaustion"),
        label=gettext_lazy("When used up"),
        help_text=gettext_lazy("What happens when no unit is left."),
    )
    price_per_million = _money(
        gettext_lazy("Price per million units beyond"),
        gettext_lazy("Where each million more has a price; tax included."),
        places=6,
    )
    tiers = forms.CharField(
        required=False,
        max_length=1000,
        widget=forms.Textarea(attrs={"rows": 3}),
        label=gettext_lazy("Tiers"),
        help_text=gettext_lazy(
            "In the place of one price, a line each: up to so many units, a price per million. The"
            " last has a * for the units. For example: 5000000 1.20"
        ),
    )
    tier_mode = forms.ChoiceField(
        required=False,
        choices=_choices("tier_mode"),
        label=gettext_lazy("How tiers are counted"),
        help_text=gettext_lazy("Where there are tiers."),
    )
    block_units = _units(gettext_lazy("Units in a pack"), gettext_lazy("Where packs are added."))
    block_price = _money(gettext_lazy("Price of a pack"), gettext_lazy("Tax included."))
    cap = _money(
        gettext_lazy("Most that is spent beyond"),
        gettext_lazy("In a period, beyond the price; empty: no limit."),
    )
    cap_units = _units(
        comparing.NAMES["cap_units"], gettext_lazy("In a period, beyond those included; or empty.")
    )
    degrade_model = _text(
        comparing.NAMES["degrade_model"], gettext_lazy("Where a smaller model answers.")
    )
    degrade_tokens_per_minute = _count(
        comparing.NAMES["degrade_tokens_per_minute"],
        gettext_lazy("Where a smaller model answers; empty: no limit."),
    )
    requests_per_minute = _count(
        gettext_lazy("Requests a minute"), gettext_lazy("Empty: no limit.")
    )
    tokens_per_minute = _count(gettext_lazy("Tokens a minute"), gettext_lazy("Empty: no limit."))
    limits_fail_closed = _yes(
        comparing.NAMES["limits_fail_closed"],
        gettext_lazy("Else all are let through when what counts requests is away."),
    )
    windows = forms.CharField(
        required=False,
        max_length=500,
        widget=forms.Textarea(attrs={"rows": 2}),
        label=gettext_lazy("Windows of use"),
        help_text=gettext_lazy(
            "At most so many units in a stretch of time, a line each: 5h, day, week or month, then"
            " units; 5h~ slides. For example: day 100000"
        ),
    )
    refund = forms.ChoiceField(
        choices=_choices("refund"),
        label=gettext_lazy("Given back at a cancellation"),
        help_text=gettext_lazy("Within a period that is paid."),
    )
    trial_days = _count(
        comparing.NAMES["trial_days"], gettext_lazy("Of a plan to try; empty: it is none.")
    )
    converts_to = _text(
        comparing.NAMES["converts_to"], gettext_lazy("The plan that follows a trial, by its code.")
    )
    pause_plan = _text(
        comparing.NAMES["pause_plan"],
        gettext_lazy("The plan that keeps a line that is paused, by its code; empty: no pauses."),
    )
    suspends = _yes(comparing.NAMES["suspends"], gettext_lazy("A plan that others are paused by."))
    tax_category = _text(
        comparing.NAMES["tax_category"],
        gettext_lazy("Its rate of the day is taken in the place of the rate below."),
    )
    tax_rate = forms.DecimalField(
        min_value=0,
        max_value=Decimal("99.99"),
        decimal_places=2,
        label=gettext_lazy("Tax rate (%)"),
        help_text=gettext_lazy("Included in the prices."),
    )
    components = forms.CharField(
        required=False,
        max_length=6000,
        widget=forms.Textarea(attrs={"rows": 3}),
        label=gettext_lazy("Parts of the price"),
        help_text=gettext_lazy(
            "Where parts of it have tax rates of their own, a line each: name; price; tax rate (%),"
            " and a tax category where it has one. They add up to the price. For example:"
            " 30 GB; 9.90; 9"
        ),
    )
    note = forms.CharField(
        max_length=200,
        required=False,
        label=gettext_lazy("Note"),
        help_text=gettext_lazy("What this version is for; customers do not see it."),
    )

    def __init__(self, *args: Any, cards: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choice = self.fields["rate_card"]
        assert isinstance(choice, forms.ChoiceField)
        choice.choices = [(code, code) for code in cards]
        for outcome, label in _MAY_BE_FREE.items():
            self.fields[f"free_{outcome}"] = _yes(
                label,
                gettext_lazy("Calls that end so cost nothing."),
                initial=outcome in USUALLY_FREE,
            )
        self.fields["note"] = self.fields.pop("note")

    def clean_tiers(self) -> tuple[Tier, ...]:
        found = []
        for line in self.cleaned_data["tiers"].splitlines():
            if line.strip():
                units, price = _pair(line)
                ends = None if units == "*" else int(_decimal(units) * THOUSANDTHS)
                found.append(Tier(ends, _decimal(price)))
        return tuple(found)

    def clean_windows(self) -> tuple[Window, ...]:
        found = []
        for line in self.cleaned_data["windows"].splitlines():
            if line.strip():
                per, units = _pair(line)
                if per.removesuffix("~") not in ("5h", "day", "week", "month"):
                    raise forms.ValidationError(_("A window is of 5h, day, week or month."))
                sliding = per.endswith("~")
                found.append(
                    Window(per.removesuffix("~"), int(_decimal(units) * THOUSANDTHS), sliding)
                )
        return tuple(found)

    def clean_components(self) -> tuple[_Part, ...]:
        lines = [line for line in self.cleaned_data["components"].splitlines() if line.strip()]
        if len(lines) > _MOST_PARTS:
            raise forms.ValidationError(
                _("%(most)d parts are the most that a price may have.") % {"most": _MOST_PARTS}
            )
        return tuple(map(_component, lines))

    def clean(self) -> dict[str, Any]:
        said = super().clean() or self.cleaned_data
        parts, price = said.get("components"), said.get("price")
        if parts and price is not None:
            together = sum(part.price for part in parts)
            if together != price:
                self.add_error(
                    "components",
                    _("The parts cost %(together)s together, the plan %(price)s.")
                    % {"together": f"{together:.2f}", "price": f"{price:.2f}"},
                )
        return said

    def terms(self, base: PlanTerms | None, currency: str) -> PlanTerms:
        """What the form says; outcomes that it does not ask about stay as they are in `base`."""
        said = self.cleaned_data

        def money(name: str) -> Money | None:
            return None if said[name] is None else Money(said[name], currency)

        def units(name: str) -> int | None:
            return None if said[name] is None else int(said[name] * THOUSANDTHS)

        tiers = said["tiers"]
        facts: dict[str, Any] = {
            **{
                name: said[name]
                for name in (
                    *("name", "rate_card", "cycle", "first_month", "collect", "rollover"),
                    *("on_exhaustion", "price_per_million", "tiers", "windows", "refund"),
                    *_AS_SAID,
                )
            },
            "cap_units": units("cap_units"),
            "outcomes": self._outcomes(USUAL if base is None else base.outcomes),
            "price": money("price"),
            "allowance": units("allowance"),
            "tier_mode": said["tier_mode"] or "graduated" if tiers else "",
            "block_units": units("block_units"),
            "block_price": money("block_price"),
            "cap": money("cap"),
            "tax_rate": said["tax_rate"] / 100,
            "components": tuple(
                Component(
                    name=part.name,
                    price=Money(part.price, currency),
                    tax_rate=part.percent / 100,
                    tax_category=part.category,
                )
                for part in said["components"]
            ),
        }
        return PlanTerms(**facts)

    def _outcomes(self, table: Mapping[str, str]) -> dict[str, str]:
        """The table with what the form says otherwise."""
        said = {name: self.cleaned_data[f"free_{name}"] for name in _MAY_BE_FREE}
        known = free(table)
        changed = {name for name, is_free in said.items() if is_free != (name in known)}
        word = {True: Billing.FREE.value, False: Billing.BILLED.value}
        return {**table, **{name: word[said[name]] for name in changed}}


def _pair(line: str) -> tuple[str, str]:
    words = line.split()
    if len(words) != 2:
        raise forms.ValidationError(_("Two words a line, please: %(line)s") % {"line": line[:60]})
    return words[0], words[1]


def _component(line: str) -> _Part:
    name, *said = (word.strip() for word in line.replace("；", ";").split(";"))
    if not name or len(said) not in (2, 3):
        raise forms.ValidationError(
            _("A line is name; price; tax rate (%%): %(line)s") % {"line": line[:60]}
        )
    price, percent = (_decimal(each.rstrip("%"), places=2) for each in said[:2])
    category = said[2] if len(said) == 3 else ""
    if percent >= 100:
        raise forms.ValidationError(
            _("A tax rate is less than 100%%: %(said)s") % {"said": said[1]}
        )
    if len(name) > 200 or len(category) > 64:
        raise forms.ValidationError(_("This is too long: %(line)s") % {"line": line[:60]})
    return _Part(name, price, percent, category)


def _decimal(said: str, *, places: int = 6) -> Decimal:
    try:
        found = Decimal(said.replace(",", ""))
    except ArithmeticError as error:
        raise forms.ValidationError(_("This is no number: %(said)s") % {"said": said}) from error
    if not found.is_finite() or not 0 <= found <= 10**12:
        raise forms.ValidationError(_("This is no number: %(said)s") % {"said": said})
    if found != round(found, places):
        raise forms.ValidationError(_("This has too many places: %(said)s") % {"said": said})
    return found


def plain(value: Decimal | None) -> str:
    return "" if value is None else f"{value.normalize():f}"


def initial(code: str, terms: PlanTerms, note: str = "") -> dict[str, Any]:
    """A form's fields as these terms say."""

    def units(value: int | None) -> Decimal | None:
        return None if value is None else (Decimal(value) / THOUSANDTHS).normalize()

    names = (
        *("name", "rate_card", "cycle", "first_month", "collect", "rollover", "on_exhaustion"),
        *("tier_mode", "refund", *_AS_SAID),
    )
    return {
        "code": code,
        "note": note,
        **{name: getattr(terms, name) for name in names},
        "price": terms.price.amount,
        "allowance": plain(units(terms.allowance)),
        "price_per_million": plain(terms.price_per_million),
        "block_units": plain(units(terms.block_units)),
        "block_price": terms.block_price and terms.block_price.amount,
        "cap": terms.cap and terms.cap.amount,
        "cap_units": plain(units(terms.cap_units)),
        **{f"free_{name}": name in free(terms.outcomes) for name in _MAY_BE_FREE},
        "tax_rate": plain(terms.tax_rate * 100),
        "tiers": "\n".join(
            f"{plain(units(one.up_to)) or '*'} {plain(one.price_per_million)}"
            for one in terms.tiers
        ),
        "components": "\n".join(
            "; ".join(
                (
                    *(one.name, f"{one.price.amount:.2f}", plain(one.tax_rate * 100)),
                    *([one.tax_category] if one.tax_category else []),
                )
            )
            for one in terms.components
        ),
        "windows": "\n".join(
            f"{one.per}{'~' if one.sliding else ''} {plain(units(one.units))}"
            for one in terms.windows
        ),
    }


# Rate cards --------------------------------------------------------------------------------------

CLASSES = {
    "input": gettext_lazy("Input"),
    "cached_input": gettext_lazy("Cached input"),
    "cache_write": gettext_lazy("Cache write"),
    "output": gettext_lazy("Output"),
    "reasoning": gettext_lazy("Reasoning"),
}
# Rows for further models, below those that are there.
_SPARE = 3
_MOST_MODELS = 200


class CardForm(forms.Form):
    code = forms.RegexField(
        _CODE,
        label=gettext_lazy("Identifier"),
        help_text=gettext_lazy("Plans name the card by it; a further version has the same."),
    )
    note = forms.CharField(
        max_length=200,
        required=False,
        label=gettext_lazy("Note"),
        help_text=gettext_lazy("What this version is for; customers do not see it."),
    )


class WeightForm(forms.Form):
    """A line of the table: a pattern, and what a token of each class weighs."""

    model = forms.CharField(max_length=256, label=gettext_lazy("Model"))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, label in CLASSES.items():
            self.fields[name] = forms.DecimalField(
                min_value=0, max_value=100, decimal_places=3, label=label
            )
        for field in self.fields.values():
            field.widget.attrs["aria-label"] = field.label


class _Weights(forms.BaseFormSet):  # type: ignore[type-arg]  # no generic when it runs
    def get_form_kwargs(self, index: int | None) -> dict[str, Any]:
        return {"empty_permitted": True}  # also of a line that said something: it is gone then

    def terms(self) -> CardTerms:
        """What its lines say; an empty one says nothing."""
        said = [one.cleaned_data for one in self.forms if one.cleaned_data]
        return CardTerms(weights=tuple(catalog.Weight(**one) for one in said))


_WEIGHTS = forms.formset_factory(
    WeightForm, formset=_Weights, extra=_SPARE, max_num=_MOST_MODELS, validate_max=True
)


def weights_form(sent: Any = None, base: CardTerms | None = None) -> _Weights:
    """The table as it was `sent`, or as a version says; with room for more models."""
    if sent is not None:
        return cast("_Weights", _WEIGHTS(sent, prefix="weight"))
    first = [
        {"model": one.model, **{name: plain(getattr(one, name)) for name in CLASSES}}
        for one in (base.weights if base else ())
    ]
    return cast("_Weights", _WEIGHTS(initial=first, prefix="weight"))
