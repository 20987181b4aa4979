"""Which numbers can be what they look like: cards, accounts, national numbers, by their check digits.

Pure. It does not know where numbers stand. Each function takes what was written, separators included, and
says whether its digits check.
This file runs on devices too: standard library only, Python 3.9.
"""

from __future__ import annotations

import re

_NOT_WORD = re.compile(r"[\W_]")
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27,
    "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24,
    "RS": 22, "SA": 24, "SC": 31, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23,
    "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip
CARD_LENGTHS = (
    (r"3[47]", {15}),
    (r"3(?:0[0-5]|[68])", {14}),
    (r"35", {16}),
    (r"4", {13, 16, 19}),
    (r"5[1-5]|2[2-7]", {16}),
    (r"5[0678]|6", {*range(12, 20)}),
    (r"", set[int]()),
)
"""How many digits a card's number has, by what it begins with."""
_SPANISH = "TRWAGMYFPDXBNJZSQVHLCKE"
_ITALIAN_ODD = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
_VERHOEFF = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_VERHOEFF_TURNS = (
    "0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415",
    "7046913258",
)  # fmt: skip


def bare(text: str) -> str:
    """Return the letters and digits alone, in capitals."""
    return _NOT_WORD.sub("", text).upper()


def luhn(text: str) -> bool:
    """Say whether the last digit is Luhn's of those before."""
    total = 0
    for place, digit in enumerate(reversed(bare(text))):
        doubled = int(digit) * (1 + place % 2)
        total += doubled - 9 * (doubled > 9)  # noqa: PLR2004 - the sum of its two digits
    return total % 10 == 0


def card(text: str) -> bool:
    """Say whether it is the number of a payment card: of an issuer's length, and right by Luhn."""
    digits = bare(text)
    lengths = next(lengths for beginning, lengths in CARD_LENGTHS if re.match(beginning, digits))
    return len(digits) in lengths and len(set(digits)) > 1 and luhn(digits)


def iban(text: str) -> int:
    """Return how many letters of the text, from its beginning, are an IBAN: 0 where none is.

    An IBAN has the length of its country, and is 1 modulo 97.
    """
    said, length = "", IBAN_LENGTHS.get(bare(text)[:2])
    for place, letter in enumerate(text):
        said += letter.upper() if letter.isalnum() else ""
        if len(said) == length:
            number = int("".join(str(int(each, 36)) for each in said[4:] + said[:4]))
            return place + 1 if number % 97 == 1 else 0
    return 0


def social_security(text: str) -> bool:
    """Say whether it can be a number of the USA's: no part is of zeros, and some are never given."""
    area, group, serial = bare(text)[:3], bare(text)[3:5], bare(text)[5:]
    return area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"


def tax_german(text: str) -> bool:
    """Say whether it is a German tax number (ISO 7064, mod 11, 10; no digit first that is 0)."""
    digits = [int(digit) for digit in bare(text)]
    product = 10
    for digit in digits[:-1]:
        product = ((digit + product) % 10 or 10) * 2 % 11
    return digits[0] != 0 and len(set(digits[:-1])) < len(digits) - 1 and (11 - product) % 10 == digits[-1]


def identity_spanish(text: str) -> bool:
    """Say whether it is a Spanish DNI or NIE."""
    said = bare(text)
    number = said[:-1].replace("X", "0", 1).replace("Y", "1", 1).replace("Z", "2", 1)
    return _SPANISH[int(number) % 23] == said[-1]


def insee(text: str) -> bool:
    """Say whether it is a French social security number."""
    said = bare(text).replace("2A", "19").replace("2B", "18")
    return said.isdigit() and 97 - int(said[:13]) % 97 == int(said[13:])


def fiscal_italian(text: str) -> bool:
    """Say whether it is an Italian codice fiscale."""
    values = [int(letter, 36) - (10 if letter.isalpha() else 0) for letter in bare(text)]
    total = sum(_ITALIAN_ODD[value] if place % 2 == 0 else value for place, value in enumerate(values[:-1]))
    return total % 26 == values[-1]


def pesel(text: str) -> bool:
    """Say whether it is a Polish PESEL, month of birth included."""
    digits = [int(digit) for digit in bare(text)]
    weighed = sum(digit * weight for digit, weight in zip(digits, (1, 3, 7, 9) * 3))
    month = (digits[2] * 10 + digits[3]) % 20
    return (10 - (weighed - digits[10] * 7) % 10) % 10 == digits[10] and 1 <= month <= 12  # noqa: PLR2004


def cpf(text: str) -> bool:
    """Say whether it is a Brazilian CPF."""
    digits = [int(digit) for digit in bare(text)]
    for length in (9, 10):
        weighed = sum(digit * (length + 1 - place) for place, digit in enumerate(digits[:length]))
        if weighed * 10 % 11 % 10 != digits[length]:
            return False
    return len(set(digits)) > 1


def resident_chinese(text: str) -> bool:
    """Say whether it is a Chinese resident's number (ISO 7064, mod 11, 2)."""
    said = bare(text)
    total = sum(int(digit) * 2 ** (17 - place) for place, digit in enumerate(said[:17]))
    return "10X98765432"[total % 11] == said[17]


def aadhaar(text: str) -> bool:
    """Say whether it is an Indian Aadhaar number (Verhoeff's scheme)."""
    check = 0
    for place, digit in enumerate(reversed(bare(text))):
        check = int(_VERHOEFF[check][int(_VERHOEFF_TURNS[place % 8][int(digit)])])
    return check == 0 and bare(text)[0] not in "01"


def personnummer(text: str) -> bool:
    """Say whether it is a Swedish personnummer: a date, and Luhn's digit."""
    digits = bare(text)[-10:]
    return luhn(digits) and 1 <= int(digits[2:4]) <= 12 and 1 <= int(digits[4:6]) % 60 <= 31  # noqa: PLR2004


def bsn(text: str) -> bool:
    """Say whether it is a Dutch burgerservicenummer."""
    digits = [int(digit) for digit in bare(text)]
    return sum(digit * (9 - place) for place, digit in enumerate(digits[:-1])) % 11 == digits[-1]
