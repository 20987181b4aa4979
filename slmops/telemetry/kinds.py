# ruff: noqa: E501 - a shape is read in one line, and speaks many languages
"""What is looked for in a text: each kind by its shape, a check, and for some the words that must stand before.

Pure. It does not know how a text is gone through (`redact`). The shapes are matched against a shadow, and say so
once: their words are turned into what they look like there (`_kind`). Law: no shape takes longer than the text
is long, whatever the text.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from slmops.telemetry import checksums
from slmops.telemetry.shadow import ALIKE

TAKEN = "\0"
"""Stands in a shadow for what was taken already."""
DIGITS = tuple("0123456789")
SECRET_BITS = 4.0
"""Entropy per letter above which a long word was drawn by chance."""


@dataclass(frozen=True)
class Kind:
    """Something that is looked for, and how."""

    name: str
    shape: re.Pattern[str]
    """Its group `it`, if it has one, is what goes."""
    holds: Callable[[str], int]
    """How many of the letters found are of the kind: 0 where it is none."""
    words: tuple[str, ...]
    """One of these is in the text, in small letters, or nothing of the kind is: quicker to see than a shape."""
    after: re.Pattern[str] | None
    """What must stand directly before."""


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
    return mixed and entropy >= SECRET_BITS and not re.search(r"[a-z]{7}|[A-Z][a-z]{4}|/[a-z]+/", said)


def _is_password(said: str) -> bool:
    """Say whether what follows `password =` is one, and no word about passwords, no variable, no call."""
    if said.lower() in _NO_PASSWORDS or re.fullmatch(
        r"[.*xX•]+|\$?\{.*|\$\w+|%\w+%|<.*|\w+\(.*|[\w.]+\[.*", said
    ):
        return False
    return bool(re.search(r"[^a-z]", said))


def _kind(
    name: str,
    shape: str,
    holds: Callable[[str], int] = lambda said: True,
    *,
    words: tuple[str, ...] = ("",),
    after: str = "",
) -> Kind:
    """Return a kind; a shape that must not follow some letter begins with its own first one, for speed."""

    def length(said: str) -> int:
        # A number of its own is how much of it holds; yes and no speak of all of it.
        held = holds(said)
        return held if type(held) is int else len(said) * held

    # The words are looked for in a shadow, and are to look like it.
    shape, after = shape.translate(ALIKE), after.translate(ALIKE)
    words = tuple(word.translate(ALIKE) for word in words)
    return Kind(name, re.compile(shape), length, words, re.compile(f"(?i:{after})$") if after else None)


_NO_NINO = {"BG", "GB", "NK", "KN", "TN", "NT", "ZZ"}
_NO_PASSWORDS = {
    "none",
    "null",
    "true",
    "false",
    "undefined",
    "required",
    "optional",
    "string",
    "str",
    "todo",
}
# fmt: off
_NAME = (
    r"(?:pass(?:word|wd|phrase|code)?|wi-?fi code|clave|wachtwoord|hasło|lösenord|parola|密码|パスワード|pwd|pw|passwort|kennwort|contraseña|mot de passe|senha|пароль|secret|"
    r"(?:api|access|auth|account|shared|private|client|secret|encryption|signing|master)[_\- ]?(?:key|token|secret|id_secret)|"
    r"(?:token|secret|passw(?:or)?d|apikey|api_key|pwd))"
)
_NUMBER_WORD = r"(?:no\.?|nr\.?|num(?:ber|ero|éro)?|nummer|#|n[°ºo]\.?|numer|号码|番号)"
_BORN = (
    r"(?:born(?: on)?|d\.?o\.?b\.?|date of birth|birth ?date|birthday|geb(?:oren|\.)?(?: am)?|geburtsdatum|née? le|"
    r"date de naissance|nacid[oa] el|fecha de nacimiento|nat[oa] il|data di nascita|nascid[oa] em|data de nascimento|"
    r"geboren op|geboortedatum|urodzon[ya]|ur\.|data urodzenia|дата рождения|родил(?:ся|ась)|生年月日|出生日期|født)"
)
_MONTH = (
    r"(?:jan|feb|m[aä]r|apr|ma[iyj]|jun|jul|aug|sep|o[ck]t|nov|de[cz]|janv|févr|avr|juin|juil|août|déc|ene|abr|ago|dic|"
    r"gen|mag|giu|lug|set|ott|styc|lut|maj|czerw|lip|sierp|wrze|paźdz|list|grud)[a-zéûíçń]*"
)
_CALL = (
    r"(?:tel(?:e(?:fon|phone|fono|fone|foon))?|t[eé]l[eé](?:phone|fono)|ph(?:one)?|mob(?:ile?|il)?|handy|cell(?:ulare)?|m[oó]vil|"
    r"portable|fax|call(?: me)?(?: (?:at|on|back at|under))?|text me (?:at|on)|ring|whats?app|sms|anrufen|rufnummer|numer|reach me (?:at|on)|"
    r"celular|cel|appelez(?:-moi)?(?: au)?|ll[aá]mame al|telefoonnummer|тел|телефон|звоните|电话|電話|手机)"
)
_SAYS = r"(?: ?" + _NUMBER_WORD + r")?(?: is| ist| est| es)?\s{0,2}[:=#]?\s{0,2}"
_TAIL = r"(?![A-Za-z0-9]|[.,\-]\d)"
_NOT = r"(?<![A-Za-z0-9]{0})(?<!\d[.,\-/:]{0})"


def _led(first: str, rest: str) -> str:
    """Return a shape that begins with `first`, a set of letters, and follows no word and no part of a number."""
    return first + _NOT.replace("{0}", first) + rest


KINDS: tuple[Kind, ...] = (
    _kind("private-key", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)", words=("private key",)),
    _kind("private-key", r"AGE-SECRET-KEY-1[A-Z0-9]{50,}|PuTTY-User-Key-File-\d:(?s:.*)\Z", words=("secret-key-1", "putty-user")),
    _kind("credentials", r"://(?P<it>[^\s/@:<>\"']*:[^\s@<>\"'/]+)(?=@[\w\[])", words=("://",)),
    _kind("token", r"eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*){1,3}", words=("eyj",)),
    _kind("token", r"\b(?:slm_[0-9a-f]{6,16}_[\w\-]{20,}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}|glpat-[\w\-]{20,}|xox[abeoprs][.\-][A-Za-z0-9.\-]{10,}|xapp-\d-[A-Za-z0-9\-]{20,}|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-[\w\-]{50,}|dop_v1_[0-9a-f]{64}|shp(?:at|ss|ca)_[0-9a-fA-F]{32}|sq0(?:atp|csp)-[\w\-]{22,})", words=("slm_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "xapp-", "hf_", "npm_", "pypi-", "dop_v1_", "shpat_", "shpss_", "shpca_", "sq0")),
    _kind("key", r"\b(?:(?:AKIA|ASIA|AROA|AIDA|AGPA|ANPA)[A-Z2-7]{12}[A-Z0-9]{4}|AIza[\w\-]{35}|ya29\.[\w\-]{20,}|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}|sk-(?:proj-|ant-|svcacct-|or-)?[\w\-]{20,}|SG\.[\w\-]{16,}\.[\w\-]{16,}|key-[0-9a-f]{32}|r8_[A-Za-z0-9]{37}|gsk_[A-Za-z0-9]{40,}|whsec_[A-Za-z0-9]{20,}|lin_api_[A-Za-z0-9]{30,}|NRAK-[A-Z0-9]{27})", words=("akia", "asia", "aroa", "aida", "agpa", "anpa", "aiza", "ya29.", "k_live_", "k_test_", "sk-", "sg.", "key-", "r8_", "gsk_", "whsec_", "lin_api_", "nrak-")),
    _kind("key", r"[AS](?<!\w[AS])[CK](?<=AC|SK)[0-9a-f]{32}(?!\w)|\bdapi[0-9a-f]{32}", words=("ac", "sk", "dapi")),
    _kind("token", r"\d(?<!\w\d)\d{7,9}:AA[\w\-]{32,35}(?!\w)", words=(":aa",)),
    _kind("secret", r"https://hooks\.slack\.com/(?P<it>(?:services|workflows)/[\w/]{20,})", words=("hooks.slack",)),
    _kind("secret", r"https://discord(?:app)?\.com/api/webhooks/(?P<it>\d+/[\w\-]{40,})", words=("webhooks/",)),
    _kind("secret", r"\b(?i:Bearer|Basic|Token)\s+(?P<it>[A-Za-z0-9+/=._~\-]{12,})(?!\w)", lambda said: bool(re.search(r"\d|[A-Z].*[A-Z]", said)), words=("bearer ", "basic ", "token ")),
    _kind("secret", r"(?i:(?<![A-Za-z])" + _NAME + r"(?:[_\-][a-z0-9]+){0,2})[\"']?\s{0,3}(?:[:=]|:=|=>|\bis\b|\bist\b|\best\b|\bes\b|\bwas\b|lautet|->)[:=\s]{0,3}[\"'`]?(?P<it>(?!(?i:Bearer|Basic)\b)[^\s\"'`,;<>\0]{4,}[^\s\"'`,;<>.!?)\0])", _is_password, words=("pass", "pwd", "pw", "kennwort", "contras", "senha", "пароль", "key", "token", "secret", "wifi", "wi-fi", "clave", "wachtw", "hasło", "lösen", "parola", "密码", "パスワード")),
    _kind("secret", r"(?i:\b(?:password|passwd|pwd|passwort|sshpass -p))[ \t]+[\"']?(?P<it>[^\s\"'<>\0]{6,})", lambda said: bool(re.search(r"\d.*[A-Za-z]|[A-Za-z].*\d", said)), words=("passw", "pwd", "sshpass")),
    _kind("secret", r"\d(?<!\d\d)\d{3,7}(?!\w|[.,\-]\d)", words=("pin",), after=r"\bpin(?:-?code|-?nummer)?(?: is| ist| est| es)?\s{0,2}[:=]?\s{0,2}"),
    _kind("secret", r"(?i:\b(?:set-)?cookie)\s*:\s*(?:[\w\-]+=)(?P<it>[^\s;,<>\0]{16,})", words=("cookie",)),
    _kind("secret", r"--?(?i:password|passwd|pwd|token|secret|api-?key)[ =][\"']?(?P<it>[^\s\"'<>\0$]{4,})", _is_password, words=("-p", "-t", "-s", "-a")),
    _kind("email", r"(?<![\w.+%\-])[\w.+%'\-]{1,64}(?:@|%40)(?:[^\W_](?:[\w\-]*[^\W_])?\.)+[^\W\d_]{2,24}(?!\w)", words=("@", "%40")),
    _kind("email", r"[\w.+\-]{1,64}_at_[\w\-]{1,60}_dot_\w{2,12}", words=("_dot_",)),
    _kind("email", r"(?<![\w.])(?:\w+\s(?i:dot)\s)?[\w.+\-]{1,64}\s?(?:(?i:[\(\[\{<](?:at|a|arroba|ät)[\)\]\}>]|\bat\b)|\s@\s|@)\s?[\w\-]{2,}(?:\s?(?i:[\(\[\{](?:dot|punkt|punto|point|\.)[\)\]\}]|\bdot\b|\bpunkt\b)\s?[\w\-]{2,})+", words=("dot", "punkt", "(.)", "punto", "point")),
    _kind("email", r"(?<![\w.])[\w.+\-]{1,64}\s?(?i:[\(\[\{](?:at|a|arroba|ät)[\)\]\}]|\s@\s)\s?(?:[\w\-]+\s?\.\s?)+[A-Za-z]{2,12}\b", words=("at)", "at]", "at}", " @ ", "(a)", "arroba", "ät)")),
    _kind("iban", _led("[A-Za-z]", r"[A-Za-z][ \-]?\d{2}(?:[ \-.\t\n]{0,2}[A-Za-z0-9]){10,30}"), checksums.iban, words=DIGITS),
    _kind("national-id", _led("[A-Za-z]", r"[A-Za-z]{5}\d{2}[A-EHLMPR-Ta-ehlmpr-t]\d{2}[A-Za-z]\d{3}[A-Za-z](?![A-Za-z0-9])"), checksums.fiscal_italian, words=DIGITS),
    _kind("national-id", _led("[12]", r" ?\d{2} ?(?:0[1-9]|1[0-2]|[2-9]\d) ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}(?!\w)"), checksums.insee, words=DIGITS),
    _kind("national-id", _led("[1-9]", r"\d{5}(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])\d{3}[\dXx](?![A-Za-z0-9])"), checksums.resident_chinese, words=DIGITS),
    _kind("card", r"[2-6](?<!\d[2-6])(?<!\d[.\-][2-6])(?:\d{3}(?:[ .\-\t\n]{0,2}\d{4}){3}|(?<=3)[47]\d{2}[ .\-]?\d{6}[ .\-]?\d{5}|(?<=3)(?:0[0-5]|[68]\d)\d[ .\-]?\d{6}[ .\-]?\d{4}|(?<=4)\d{12}|(?<=5)[018]\d{10,17}|(?<=6)\d{11,18})(?!\d)(?!-\d)", checksums.card, words=DIGITS),
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
    _kind("national-id", r"\d(?<!\d\d)\d{8}(?!\d)", checksums.bsn, words=("bsn", "burgerservice"), after=r"\b(?:bsn|burgerservicenummer)\b[^\d\n]{0,16}"),
    _kind("national-id", r"\d(?<!\d\d)\d ?\d{3} ?\d{3} ?\d{3}(?!\d)", checksums.tax_german, words=("steuer", "idnr", "tin"), after=r"\b(?:steuer\w*(?:-?id\w*| identifikationsnummer)|idnr|tin)\b[^\d\n]{0,20}"),
    _kind("national-id", _led("[2-9]", r"\d{3} \d{4} \d{4}(?! ?\d)(?!\w)"), checksums.aadhaar, words=DIGITS),
    _kind("national-id", r"\d(?<!\d\d)\d{11}(?!\d)", checksums.aadhaar, words=("aadha", "uidai"), after=r"\b(?:aadhaar|aadhar|uidai)\b[^\d\n]{0,20}"),
    _kind("passport", _led("[A-Z0-9]", r"(?<=[A-Z0-9])(?=[A-Z0-9]*\d[A-Z0-9]*\d)[A-Z0-9]{5,11}(?!\w)"), words=("pass", "pasap", "paszport", "ausweis", "licen", "schein"), after=r"\b(?:passport|reisepass|passeport|pasaporte|passaporto|paszport|(?:personal)?ausweis|driver'?s licen[cs]e|führerschein)\w*[ \-]?(?:" + _NUMBER_WORD + r")?(?: is| ist| est| es)?\s{0,2}[:#]?\s{0,2}"),
    _kind("account", r"\d(?<!\w\d)(?:[ \-]?\d){5,16}(?!\w)", words=("acc", "a/c", "konto", "cuenta", "compte", "conto", "rekening", "routing", "sort code", "blz"), after=r"\b(?:account|acct|a/c|konto|cuenta|compte|conto|rekening|routing|sort code|blz)\w*\.?[ \-]?(?:" + _NUMBER_WORD + r")?(?: is| ist| es)?\s{0,2}[:#]?\s{0,2}"),
    _kind("birth-date", rf"(?:\d(?<!\d\d)(?:\d?[./\- ]\d{{1,2}}[./\- ]\d{{2,4}}|\d{{3}}[./\-年]\d{{1,2}}[./\-月]\d{{1,2}}日?|\d?(?:\.|st|nd|rd|th)? (?:of |de )?(?i:{_MONTH}),?(?: de)? \d{{4}})|(?i:{_MONTH})\.? \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}})(?!\d)", words=("born", "d.o.b", "dob", "birth", "geb", "née", "né ", "naiss", "nac", "nat", "nasc", "urodz", "ur.", "生", "fød", "рожд", "роди"), after=r"(?<![a-z])" + _BORN + r"[\s:,=\-]{0,4}(?:the |el |on |le |am |den )?"),
    _kind("birth-date", r"\d(?<!\d\d)\d?[./\- ]\d{1,2}[./\- ]\d{2,4}(?=[,\s]{1,2}(?i:born|geboren)\b)", words=("born", "geboren")),
    _kind("mac", r"[0-9A-Fa-f](?<![\w:\-][0-9A-Fa-f])[0-9A-Fa-f]([:\-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![\w:\-])", words=(":", "-")),
    _kind("ip", r"[0-9A-Fa-f:](?<![\w:.][0-9A-Fa-f:])[0-9A-Fa-f]{0,3}:(?:[0-9A-Fa-f]{0,4}:){0,6}(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{1,4}|(?<=::))(?![\w:])", _is_address, words=("::", ":0", ":1", ":2", ":3", ":4", ":5", ":6", ":7", ":8", ":9", ":a", ":b", ":c", ":d", ":e", ":f")),
    _kind("ip", r"\d(?<![\w.\-]\d)(?<![A-Za-z]/\d)\d{0,2}(?:\.\d{1,3}){3}(?![\w\-]|\.\d)", _is_address, words=DIGITS, after=r"(?<!version )(?<!release )(?<!firmware )(?<!build )"),
    _kind("phone", r"[+0](?<![\w+][+0])(?<!\d 0)(?:(?<=\+)|0)[ ]?[1-9](?:[ .\-/()]{0,3}\d){6,14}(?!\d)", _is_telephone, words=("+", "00")),
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
    _kind("secret", r"[A-Za-z0-9+/_\-](?<![\w+/=.\-][A-Za-z0-9+/_\-])[A-Za-z0-9+/_\-]{31,}={0,2}(?![\w+/=])", _is_secret, words=DIGITS),
)
"""What is looked for, what is surest first."""
