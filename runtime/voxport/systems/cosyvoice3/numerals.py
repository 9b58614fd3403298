"""Whole numbers in English words, as upstream's `inflect` says them. That package takes seconds to import."""

import unicodedata

UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
UNITS += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = ["", " thousand", " million", " billion", " trillion", " quadrillion", " quintillion", " sextillion"]
SCALES += [" septillion", " octillion", " nonillion", " decillion"]
LONGEST = 3 * len(SCALES)  # digits of a number that has a name; longer ones are said digit by digit


def cardinal(digits: str) -> str:
    """Digits of any script (`str.isdigit`), at least one -> "one million, two hundred and three thousand and four"."""
    values = [unicodedata.digit(char) for char in digits]
    plain = "".join(map(str, values)).lstrip("0")
    if not plain:
        return UNITS[0]
    if len(plain) > LONGEST:
        return " ".join(UNITS[value] for value in values)
    number, groups = int(plain), []
    last = number % 1000
    for scale in SCALES:
        number, group = divmod(number, 1000)
        if group:
            groups.append(_hundreds(group) + scale)
    if len(groups) > 1 and 0 < last < 100:
        return f"{', '.join(groups[:0:-1])} and {groups[0]}"
    return ", ".join(reversed(groups))


def _hundreds(number: int) -> str:
    """1 .. 999 in words."""
    hundreds, rest = divmod(number, 100)
    tens, units = divmod(rest, 10)
    words = UNITS[rest] if rest < 20 else TENS[tens] + (f"-{UNITS[units]}" if units else "")
    if not hundreds:
        return words
    return f"{UNITS[hundreds]} hundred" + (f" and {words}" if rest else "")
