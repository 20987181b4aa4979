"""Take out of a text what names a person or opens a door: mail, cards, accounts, telephones, numbers, secrets.

Pure. What is found is found in a shadow of the text, in which letters that only look like others are those
others and invisible ones are gone; what is replaced is replaced in the text itself, by <kind>. Most kinds are
a shape and a check (`checksums`); some count only after words that say what comes.

Laws: a text without anything to take out comes back as it was; a kind that is earlier in `KINDS` wins what two
would take; what is cut off at the end of the text is taken for whole where it began as a private key.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import ipaddress
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from slmops.telemetry import checksums

_ALIKE = str.maketrans(
    "аеорсухіѕјԁһӏАВЕКМНОРСТХІЅЈοαυνΑΒΕΖΗΙΚΜΝΟΡΤΥΧ‐‑‒–—―−﹣·․",
    "aeopcyxisjdhlABEKMHOPCTXISJoauvABEZHIKMNOPTYX--------..",
)
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u115f\u1160\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")
_MOSTLY_DIGITS = re.compile(r"(?<![A-Za-z0-9])[0-9OoIl|][0-9OoIl|SB .\-]{9,}[0-9OoIl|](?![A-Za-z0-9])")
_AS_DIGITS = str.maketrans("OoIl|SB", "0011158")
_TAKEN = "\0"
BEFORE = 64
"""Letters before a number in which the words that say what it is are looked for."""
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Span:
    """A part of a text that is to go."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class Redacted:
    """A text without it."""

    text: str
    kinds: tuple[str, ...]
    """What was taken out, in order."""


@dataclass(frozen=True)
class _Kind:
    name: str
    shape: re.Pattern[str]
    """Its group `it`, if it has one, is what goes."""
    holds: Callable[[str], int]
    """How many of the letters found are of the kind: 0 where it is none."""
    words: tuple[str, ...]
    """One of these is in the text, in small letters, or nothing of the kind is: quicker to see than a shape."""
    after: re.Pattern[str] | None
    """What must stand directly before."""


def redact(text: str) -> Redacted:
    """Return the text with everything that is found in it replaced by its kind."""
    found = spans(text)
    if not found:
        return Redacted(text, ())
    pieces, end = [], 0
    for span in found:
        pieces += [text[end : span.start], f"<{span.kind}>"]
        end = span.end
    return Redacted("".join([*pieces, text[end:]]), tuple(span.kind for span in found))


def spans(text: str) -> list[Span]:
    """Return what is to go, in the order of the text; none overlaps another."""
    shadow, places = _shadow(text)
    small = shadow.lower()
    found = []
    for kind in KINDS:
        if any(word in small for word in kind.words):
            for start, end in _places(kind, shadow):
                shadow = shadow[:start] + _TAKEN * (end - start) + shadow[end:]
                found.append(Span(places(start), places(end - 1) + 1, kind.name))
    return sorted(found, key=lambda span: span.start)


def _places(kind: _Kind, shadow: str) -> list[tuple[int, int]]:
    group = "it" if "it" in kind.shape.groupindex else 0
    found = []
    place = 0
    while match := kind.shape.search(shadow, place):
        start, end = match.span(group)
        said = shadow[start:end]
        length = 0
        if said and _TAKEN not in said and (not kind.after or kind.after.search(shadow, max(0, start - BEFORE), start)):
            length = kind.holds(said)
        if length:
            found.append((start, start + length))
        # What begins within something that is none may be one; of what is long that would take long.
        place = start + length if length else match.start() + 1 if len(said) <= BEFORE else match.end()
        place = max(place, match.start() + 1)
    return found


def _shadow(text: str) -> tuple[str, Callable[[int], int]]:
    """Return what the text looks like, and where in the text each letter of that stands."""
    if text.isascii():
        return _with_digits(text), lambda place: place
    letters: list[str] = []
    places: list[int] = []
    for place, letter in enumerate(text):
        looks = letter if letter < "\x80" else _looks(letter)
        letters.append(looks)
        places.extend([place] * len(looks))
    return _with_digits("".join(letters)), places.__getitem__


@lru_cache(maxsize=4096)
def _looks(letter: str) -> str:
    if _INVISIBLE.match(letter):
        return ""
    plain = unicodedata.normalize("NFKC", letter).translate(_ALIKE)
    return "".join(str(unicodedata.decimal(each, None) if each.isdecimal() else each) for each in plain)


def _with_digits(shadow: str) -> str:
    """Return it with letters that stand among digits for digits, as 4l11 for 4111, read as those."""

    def read(match: re.Match[str]) -> str:
        said = match[0]
        digits = sum(letter.isdigit() for letter in said)
        return said.translate(_AS_DIGITS) if digits * 10 >= 7 * len(checksums.bare(said)) else said

    return _MOSTLY_DIGITS.sub(read, shadow)


def _is_address(said: str) -> bool:
    try:
        address = ipaddress.ip_address(said)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or said == "255.255.255.255")


def _is_telephone(said: str) -> bool:
    digits = checksums.bare(said)
    return 7 <= len(digits) <= 15 and len(set(digits)) > 2 and digits not in "01234567890"  # noqa: PLR2004 - E.164


def _is_secret(said: str) -> bool:
    """Say whether a long word is drawn by chance: its letters mixed, and no name of anything."""
    counts = Counter(said)
    entropy = -sum(n / len(said) * math.log2(n / len(said)) for n in counts.values())
    mixed = (
        sum(each.isdigit() for each in said) >= len(said) // 12
        and sum(each.isupper() for each in said) >= len(said) // 6
        and sum(each.islower() for each in said) >= len(said) // 6
    )
    return mixed and entropy >= 4.0 and not re.search(r"[a-z]{7}|[A-Z][a-z]{4}|/[a-z]+/", said)  # noqa: PLR2004


def _is_password(said: str) -> bool:
    """Say whether what follows `password =` is one, and no word about passwords, no variable, no call."""
    if said.lower() in _NO_PASSWORDS or re.fullmatch(r"[.*xX•]+|\$?\{.*|\$\w+|%\w+%|<.*|\w+\(.*|[\w.]+\[.*", said):
        return False
    return bool(re.search(r"[^a-z]", said))


def _kind(
    name: str,
    shape: str,
    holds: Callable[[str], int] = lambda said: True,
    *,
    words: tuple[str, ...] = ("",),
    after: str = "",
) -> _Kind:
    """Return a kind; a shape that must not follow some letter begins with its own first one, for speed."""

    def length(said: str) -> int:
        # A number of its own is how much of it holds; yes and no speak of all of it.
        held = holds(said)
        return held if type(held) is int else len(said) * held

    # The words are looked for in a shadow, and are to look like it.
    shape, after = shape.translate(_ALIKE), after.translate(_ALIKE)
    words = tuple(word.translate(_ALIKE) for word in words)
    return _Kind(name, re.compile(shape), length, words, re.compile(f"(?i:{after})$") if after else None)


_NO_NINO = {"BG", "GB", "NK", "KN", "TN", "NT", "ZZ"}
_NO_PASSWORDS = {"none", "null", "true", "false", "undefined", "required", "optional", "string", "str", "todo"}
_NAME = r"(?:pass(?:word|wd|phrase|code)?|pwd|passwort|kennwort|contraseña|mot de passe|senha|пароль|secret|"\
    r"(?:api|access|auth|account|shared|private|client|secret|encryption|signing|master)[_\- ]?(?:key|token|secret|id_secret)|"\
    r"(?:[a-z0-9]+[_\-])*(?:token|secret|passw(?:or)?d|apikey|api_key|pwd))"
_NUMBER_WORD = r"(?:no\.?|nr\.?|num(?:ber|ero|éro)?|nummer|#|n[°ºo]\.?|numer|号码|番号)"
_BORN = r"(?:born(?: on)?|d\.?o\.?b\.?|date of birth|birth ?date|birthday|geb(?:oren|\.)?(?: am)?|geburtsdatum|née? le|"\
    r"date de naissance|nacid[oa] el|fecha de nacimiento|nat[oa] il|data di nascita|nascid[oa] em|data de nascimento|"\
    r"geboren op|geboortedatum|urodzon[ya]|data urodzenia|дата рождения|родил(?:ся|ась)|生年月日|出生日期|født)"
_MONTH = r"(?:jan|feb|m[aä]r|apr|ma[iyj]|jun|jul|aug|sep|o[ck]t|nov|de[cz]|janv|févr|avr|juin|juil|août|déc|ene|abr|ago|dic|"\
    r"gen|mag|giu|lug|set|ott|styc|lut|maj|czerw|lip|sierp|wrze|paźdz|list|grud)[a-zéûíçń]*"
_CALL = r"(?:tel(?:e(?:fon|phone|fono|fone|foon))?|t[eé]l[eé](?:phone|fono)|ph(?:one)?|mob(?:ile?|il)?|handy|cell(?:ulare)?|m[oó]vil|"\
    r"portable|fax|call(?: me)?(?: (?:at|on|back at|under))?|text me (?:at|on)|ring|whats?app|sms|anrufen|rufnummer|numer|reach me (?:at|on)|"\
    r"celular|cel|appelez(?:-moi)?(?: au)?|ll[aá]mame al|telefoonnummer|тел|телефон|звоните|电话|電話|手机)"
_SAYS = r"(?: ?" + _NUMBER_WORD + r")?(?: is| ist| est| es)?\s{0,2}[:=#]?\s{0,2}"
_TAIL = r"(?![A-Za-z0-9]|[.,\-]\d)"
_NOT = r"(?<![A-Za-z0-9]{0})(?<!\d[.,\-/:]{0})"


def _led(first: str, rest: str) -> str:
    """Return a shape that begins with `first`, a set of letters, and follows no word and no part of a number."""
    return first + _NOT.replace("{0}", first) + rest


KINDS: tuple[_Kind, ...] = (
    _kind("private-key", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)", words=("private key",)),
    _kind("private-key", r"AGE-SECRET-KEY-1[A-Z0-9]{50,}|PuTTY-User-Key-File-\d:(?s:.*)\Z", words=("secret-key-1", "putty-user")),
    _kind("credentials", r"://(?P<it>[^\s/@:<>\"']*:[^\s@<>\"'/]+)(?=@[\w\[])", words=("://",)),
    _kind("token", r"eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*){1,3}", words=("eyj",)),
    _kind("token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}|glpat-[\w\-]{20,}|xox[abeoprs]-[A-Za-z0-9\-]{10,}|xapp-\d-[A-Za-z0-9\-]{20,}|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-[\w\-]{50,}|dop_v1_[0-9a-f]{64}|shp(?:at|ss|ca)_[0-9a-fA-F]{32}|sq0(?:atp|csp)-[\w\-]{22,})",
        words=("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "xapp-", "hf_", "npm_", "pypi-", "dop_v1_", "shpat_", "shpss_", "shpca_", "sq0")),
    _kind("key", r"\b(?:(?:AKIA|ASIA|AROA|AIDA|AGPA|ANPA)[A-Z2-7]{12}[A-Z0-9]{4}|AIza[\w\-]{35}|ya29\.[\w\-]{20,}|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}|sk-(?:proj-|ant-|svcacct-|or-)?[\w\-]{20,}|SG\.[\w\-]{16,}\.[\w\-]{16,}|key-[0-9a-f]{32}|r8_[A-Za-z0-9]{37}|gsk_[A-Za-z0-9]{40,}|whsec_[A-Za-z0-9]{20,}|lin_api_[A-Za-z0-9]{30,}|NRAK-[A-Z0-9]{27})",
        words=("akia", "asia", "aroa", "aida", "agpa", "anpa", "aiza", "ya29.", "k_live_", "k_test_", "sk-", "sg.", "key-", "r8_", "gsk_", "whsec_", "lin_api_", "nrak-")),
    _kind("key", r"[AS](?<!\w[AS])[CK](?<=AC|SK)[0-9a-f]{32}(?!\w)|\bdapi[0-9a-f]{32}", words=("ac", "sk", "dapi")),
    _kind("token", r"\d(?<!\w\d)\d{7,9}:AA[\w\-]{32,35}(?!\w)", words=(":aa",)),
    _kind("secret", r"https://hooks\.slack\.com/(?P<it>(?:services|workflows)/[\w/]{20,})", words=("hooks.slack",)),
    _kind("secret", r"https://discord(?:app)?\.com/api/webhooks/(?P<it>\d+/[\w\-]{40,})", words=("webhooks/",)),
    _kind("secret", r"\b(?i:Bearer|Basic|Token)\s+(?P<it>[A-Za-z0-9+/=._~\-]{12,})(?!\w)", lambda said: bool(re.search(r"\d|[A-Z].*[A-Z]", said)), words=("bearer ", "basic ", "token ")),
    _kind("secret", r"(?i:(?<![A-Za-z])" + _NAME + r")[\"']?\s{0,3}(?:[:=]|:=|=>|\bis\b|\bist\b|\best\b|\bes\b|\bwas\b|lautet|->)[:=\s]{0,3}[\"'`]?(?P<it>(?!(?i:Bearer|Basic)\b)[^\s\"'`,;<>\0]{4,}[^\s\"'`,;<>.!?)\0])", _is_password,
        words=("pass", "pwd", "kennwort", "contras", "senha", "пароль", "key", "token", "secret")),
    _kind("secret", r"(?i:\b(?:set-)?cookie)\s*:\s*(?:[\w\-]+=)(?P<it>[^\s;,<>\0]{16,})", words=("cookie",)),
    _kind("secret", r"--?(?i:password|passwd|pwd|token|secret|api-?key)[ =][\"']?(?P<it>[^\s\"'<>\0$]{4,})", _is_password, words=("-p", "-t", "-s", "-a")),
    _kind("email", r"(?<![\w.+%\-])[\w.+%'\-]{1,64}@(?:[^\W_](?:[\w\-]*[^\W_])?\.)+[^\W\d_]{2,24}(?!\w)", words=("@",)),
    _kind("email", r"(?<![\w.])[\w.+\-]{1,64}\s?(?:(?i:[\(\[\{<](?:at|a|arroba|ät)[\)\]\}>]|\bat\b)|\s@\s|@)\s?[\w\-]{2,}(?:\s?(?i:[\(\[\{](?:dot|punkt|punto|point|\.)[\)\]\}]|\bdot\b|\bpunkt\b)\s?[\w\-]{2,})+",
        words=("dot", "punkt", "(.)", "punto", "point")),
    _kind("email", r"(?<![\w.])[\w.+\-]{1,64}\s?(?i:[\(\[\{](?:at|a|arroba|ät)[\)\]\}]|\s@\s)\s?(?:[\w\-]+\s?\.\s?)+[A-Za-z]{2,12}\b", words=("at)", "at]", "at}", " @ ", "(a)", "arroba", "ät)")),
    _kind("iban", _led("[A-Za-z]", r"[A-Za-z][ \-]?\d{2}(?:[ \-.]{0,2}[A-Za-z0-9]){10,30}"), checksums.iban, words=DIGITS),
    _kind("national-id", _led("[A-Za-z]", r"[A-Za-z]{5}\d{2}[A-EHLMPR-Ta-ehlmpr-t]\d{2}[A-Za-z]\d{3}[A-Za-z](?![A-Za-z0-9])"), checksums.fiscal_italian, words=DIGITS),
    _kind("national-id", _led("[12]", r" ?\d{2} ?(?:0[1-9]|1[0-2]|[2-9]\d) ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}(?!\w)"), checksums.insee, words=DIGITS),
    _kind("national-id", _led("[1-9]", r"\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])\d{3}[\dXx](?!\w)"), checksums.resident_chinese, words=DIGITS),
    _kind("card", r"[2-6](?<!\d[2-6])(?<!\d[.\-][2-6])(?:\d{3}(?:[ .\-]{0,2}\d{4}){3}|(?<=3)[47]\d{2}[ .\-]?\d{6}[ .\-]?\d{5}|(?<=3)(?:0[0-5]|[68]\d)\d[ .\-]?\d{6}[ .\-]?\d{4}|(?<=4)\d{12}|(?<=5)[018]\d{10,17}|(?<=6)\d{11,18})(?!\d)(?!-\d)", checksums.card, words=DIGITS),
    _kind("card", r"[2-6](?<!\d[2-6])(?<![.,][2-6])(?:[ .\-_/]?\d){14,18}(?!\d)", checksums.card, words=DIGITS),
    _kind("national-id", _led(r"\d", r"\d{2}[\- ]\d{2}[\- ]\d{4}(?!\w|-\d)"), checksums.social_security, words=DIGITS),
    _kind("national-id", r"\d(?<!\d\d)\d{8}(?!\d)", checksums.social_security, words=("ssn", "social sec"), after=r"\b(?:ssn|social security)\b[^\d\n]{0,24}"),
    _kind("national-id", _led("[A-CEGHJ-PR-TW-Za-ceghj-pr-tw-z]", r"[A-CEGHJ-NPR-TW-Za-ceghj-npr-tw-z] ?\d{2} ?\d{2} ?\d{2} ?[A-Da-d](?![A-Za-z0-9])"), lambda said: checksums.bare(said)[:2] not in _NO_NINO, words=DIGITS),
    _kind("national-id", _led("[XYZxyz0-9]", r"(?:[ \-]?\d{7}|\d\.\d{3}\.\d{3})[ \-]?[A-Za-z](?!\w)"), checksums.identity_spanish, words=DIGITS),
    _kind("national-id", _led(r"\d", r"\d{2}\.\d{3}\.\d{3}-\d{2}(?!\w)"), checksums.cpf, words=DIGITS),
    _kind("national-id", r"\d(?<!\d\d)\d{10}(?!\d)", checksums.cpf, words=("cpf",), after=r"\bcpf\b[^\d\n]{0,12}"),
    _kind("national-id", _led(r"\d", r"\d(?:0[1-9]|1[0-2]|[2-9]\d)[0-3]\d[\-+]\d{4}(?!\w)"), checksums.personnummer, words=DIGITS),
    _kind("national-id", _led("[12]", r"(?:(?<=1)9|(?<=2)0)\d{2}(?:0[1-9]|1[0-2])[0-3]\d[\-+]?\d{4}(?!\w)"), checksums.personnummer, words=DIGITS),
    _kind("national-id", r"\d(?<!\d\d)\d{10}(?!\d)", checksums.pesel, words=("pesel", "ewidencyjny"), after=r"\b(?:pesel|numer ewidencyjny)\b[^\d\n]{0,16}"),
    _kind("national-id", r"\d(?<!\d\d)\d ?\d{3} ?\d{3} ?\d{3}(?!\d)", checksums.tax_german, words=("steuer", "idnr", "tin"), after=r"\b(?:steuer\w*(?:-?id\w*| identifikationsnummer)|idnr|tin)\b[^\d\n]{0,20}"),
    _kind("national-id", _led("[2-9]", r"\d{3} \d{4} \d{4}(?! ?\d)(?!\w)"), checksums.aadhaar, words=DIGITS),
    _kind("national-id", r"\d(?<!\d\d)\d{11}(?!\d)", checksums.aadhaar, words=("aadha", "uidai"), after=r"\b(?:aadhaar|aadhar|uidai)\b[^\d\n]{0,20}"),
    _kind("passport", _led("[A-Z0-9]", r"(?<=[A-Z0-9])(?=[A-Z0-9]*\d[A-Z0-9]*\d)[A-Z0-9]{5,11}(?!\w)"), words=("pass", "pasap", "paszport", "ausweis", "licen", "schein"),
        after=r"\b(?:passport|reisepass|passeport|pasaporte|passaporto|paszport|personalausweis|driver'?s licen[cs]e|führerschein)\w*[ \-]?(?:" + _NUMBER_WORD + r")?(?: is| ist| est| es)?\s{0,2}[:#]?\s{0,2}"),
    _kind("account", r"\d(?<!\w\d)(?:[ \-]?\d){5,16}(?!\w)", words=("acc", "a/c", "konto", "cuenta", "compte", "conto", "rekening", "routing", "sort code", "blz"),
        after=r"\b(?:account|acct|a/c|konto|cuenta|compte|conto|rekening|routing|sort code|blz)\w*\.?[ \-]?(?:" + _NUMBER_WORD + r")?(?: is| ist| es)?\s{0,2}[:#]?\s{0,2}"),
    _kind("birth-date", rf"(?:\d(?<!\d\d)(?:\d?[./\- ]\d{{1,2}}[./\- ]\d{{2,4}}|\d{{3}}[./\-年]\d{{1,2}}[./\-月]\d{{1,2}}日?|\d?(?:\.|st|nd|rd|th)? (?:of |de )?(?i:{_MONTH}),?(?: de)? \d{{4}})|(?i:{_MONTH})\.? \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}})(?!\d)",
        words=("born", "d.o.b", "dob", "birth", "geb", "née", "né ", "naiss", "nac", "nat", "nasc", "urodz", "生", "fød", "рожд", "роди"), after=r"(?<![a-z])" + _BORN + r"[\s:,=\-]{0,4}(?:the |el |on |le |am |den )?"),
    _kind("mac", r"[0-9A-Fa-f](?<![\w:\-][0-9A-Fa-f])[0-9A-Fa-f]([:\-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:\-])", words=(":", "-")),
    _kind("ip", r"[0-9A-Fa-f:](?<![\w:.][0-9A-Fa-f:])[0-9A-Fa-f]{0,3}:(?:[0-9A-Fa-f]{0,4}:){0,6}(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{1,4}|(?<=::))(?![\w:])", _is_address, words=("::", ":0", ":1", ":2", ":3", ":4", ":5", ":6", ":7", ":8", ":9", ":a", ":b", ":c", ":d", ":e", ":f")),
    _kind("ip", r"\d(?<![\w.\-]\d)\d{0,2}(?:\.\d{1,3}){3}(?![\w\-]|\.\d)", _is_address, words=DIGITS, after=r"(?<!version )(?<!release )(?<!firmware )(?<!build )"),
    _kind("phone", r"[+0](?<![\w+][+0])(?:(?<=\+)|0)[ ]?[1-9](?:[ .\-/()]{0,3}\d){6,14}(?!\d)", _is_telephone, words=("+", "00")),
    _kind("phone", r"[(\d](?<!\d[(\d])(?:[ .\-/()]{0,3}\d){5,14}(?!\d)", _is_telephone, words=DIGITS, after=r"(?<![a-z])" + _CALL + r"\.?" + _SAYS),
    _kind("phone", r"\((?<!\w\()[2-9]\d{2}\)[ .\-]?\d{3}[ .\-]\d{4}" + _TAIL, _is_telephone, words=("(",)),
    _kind("phone", r"\((?<!\w\()0\d{1,4}\)[ ]?\d{2,4}(?:[ .\-]?\d{2,4}){1,4}" + _TAIL, _is_telephone, words=("(0",)),
    _kind("phone", r"\((?<!\w\()\d{2}\) ?9?\d{4}-\d{4}" + _TAIL, _is_telephone, words=("(",)),
    _kind("phone", _led(r"[1-9]", r"(?:(?<=1)[ .\-][2-9])?\d{2}([.\- ])[2-9]\d{2}\1\d{4}") + _TAIL, _is_telephone, words=DIGITS),
    _kind("phone", _led("0", r"[1-9]\d{0,4}(?:[ /\-]{1,3}\d{2,8}){1,5}") + _TAIL, lambda said: 9 <= len(checksums.bare(said)) <= 12, words=("0",)),  # noqa: PLR2004
    _kind("phone", _led("0", r"[1-9](?:\.\d{2}){4}") + _TAIL, words=("0",)),
    _kind("phone", _led("0", r"[1-9]\d{8,9}") + _TAIL, _is_telephone, words=("0",)),
    _kind("phone", _led("1", r"[3-9]\d{9}") + _TAIL, _is_telephone, words=("1",)),
    _kind("phone", _led("8", r"[ \-]?\(\d{3}\)[ \-]?\d{3}(?:[ \-]?\d{2}){2}") + _TAIL, _is_telephone, words=("8",)),
    _kind("secret", r"[A-Za-z0-9+/_\-]{32,}={0,2}(?![\w+/=])", _is_secret, words=DIGITS),
)
"""What is looked for, what is surest first."""
