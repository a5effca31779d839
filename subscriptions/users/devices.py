"""What a browser says of itself, in words: `Chrome 126, Android`."""

from __future__ import annotations

from django.utils.functional import Promise
from django.utils.text import Truncator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from ua_parser import parse

# Of what nobody knows, so much is shown as it was sent.
_SHOWN = 60
# Browsers and systems whose names the parser has otherwise than people do.
_NAMES: dict[str, str | Promise] = {
    "Chrome Mobile": "Chrome",
    "Chrome Mobile iOS": "Chrome",
    "Chrome Mobile WebView": "Chrome",
    "HeadlessChrome": "Chrome",
    "Mobile Safari": "Safari",
    "Mobile Safari UI/WKWebView": "Safari",
    "Firefox Mobile": "Firefox",
    "Firefox iOS": "Firefox",
    "Edge Mobile": "Edge",
    "WeChat Browser": _("WeChat"),
    "QQ Browser": _("QQ Browser"),
    "QQ Browser Mobile": _("QQ Browser"),
    "UC Browser": _("UC Browser"),
    "MiuiBrowser": _("Xiaomi Browser"),
    "Huawei Browser": _("Huawei Browser"),
    "HeyTap Browser": _("OPPO Browser"),
    "Samsung Internet": _("Samsung Browser"),
    "Mac OS X": "macOS",
}


def named(user_agent: str) -> str:
    """The browser with its version, and the system; else what was sent, cut; else that it is
    not known."""
    found = parse(user_agent)
    browser = system = ""
    if found.user_agent is not None:
        browser = _name(found.user_agent.family)
        if found.user_agent.major:
            browser = f"{browser} {found.user_agent.major}"
    if found.os is not None:
        system = _name(found.os.family)
    elif "OpenHarmony" in user_agent:  # the parser does not know it yet
        system = "HarmonyOS"
    if browser and system:
        return gettext("%(browser)s, %(system)s") % {"browser": browser, "system": system}
    said = browser or system or Truncator(user_agent.strip()).chars(_SHOWN)
    return said or gettext("A device that is not known")


def _name(family: str) -> str:
    return str(_NAMES.get(family, family))
