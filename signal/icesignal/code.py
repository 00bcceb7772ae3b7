"""Codes such as `7-guitar-ozone`, which one person reads out to another: made here, and parsed tolerantly.

Two words of a list of 512 are 18 bits; one guess per code makes that one chance in 262,144. Who makes one code after
the other, since somebody guesses, makes them of four. Nobody types four for two by mistake, as he may type three.
Source: docs/relay-protocol.md section 6.
"""

from __future__ import annotations

import difflib
import re
import secrets
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from icesignal.errors import CodeMalformed
from icesignal.expect import expect
from icesignal.url import MAX_URL_CHARACTERS, parse_host, parse_relay_url

_TEXT = """
acorn actor adult agent alarm album alley almond amber anchor angel ankle apple april apron arena armor arrow
artist atlas attic aunt autumn award bacon badge bagel baker balcony bamboo banana banjo barber barrel basil
basket beach beaver bell berry bicycle bishop bison blanket blossom bonus border bottle boxer bracket branch
brandy bread brick bridge broccoli bronze broom brush bucket buffalo bugle bundle bunker butter button cabin
cactus camel camera campus canal candle canoe canvas canyon captain caramel carbon cargo carpet carrot cattle
cedar cello cement ceramic chalk chapel cherry chess chicken chimney circle circus citrus clarinet clay clinic
clock clover cobalt cobra coconut coffee collar colony comet compass concert copper coral cotton cougar cousin
coyote cradle crater cricket crown cruise crystal cupboard curtain cushion cyclone daisy dancer dawn decade
delta denim desert diamond diesel dinner doctor dolphin domino donkey dragon drama dream drum duchess dune
eagle earth easel echo editor elbow elephant eleven emerald emperor engine envelope equator evening fabric
falcon family farmer feather fiddle filter flame flannel flower flute forest fortune fossil fountain fox
freezer friday frost fruit galaxy gallon garage garden garlic gazelle gemstone giant ginger giraffe glacier
glove golf gondola gorilla granite grape gravel guitar gymnast hammer hamster harbor harp harvest hazel heaven
hedgehog helmet herring hickory hockey holiday honey horizon hotel hunter husky iceberg igloo indigo insect
iron island ivory jacket jaguar january jasmine jelly jersey jewel jigsaw journal juice july jungle juniper
kangaroo kayak kennel kettle kimono kingdom kitchen kitten koala ladder lagoon lantern laser laundry lava
lawyer lemon leopard lettuce lilac linen lion liquid lizard lobster logic lotus lunar lunch machine magnet
magpie mammoth mansion maple marble march market marlin mascot mayor meadow medal melon memory mercury meteor
midnight mineral mirror mobile monarch monday morning mosaic motor muffin museum mushroom music mustard napkin
navy nectar needle nephew nickel ninja noodle north nugget nurse nutmeg oasis oatmeal ocean october octopus
office olive omelet onion opera orange orbit orchard orchid organ otter oxygen oyster ozone paddle pajama
palace panda panther papaya paper parade parcel pastry patio peanut pebble pelican pencil penguin pepper
perfume piano pickle picnic pigeon pilot pirate pizza planet plaza pocket poet pony poplar poppy portal
postcard potato powder pretzel prince prism prophet pumpkin puppet purple puzzle pyramid quartz queen quilt
quiver rabbit raccoon radar radio raisin raven recipe reef reptile ribbon river robin robot rodeo rooster rose
ruby rudder saffron sailor salad salmon salsa sandal sapphire satin saturn sausage scarf school scooter
seagull season senator sequel shadow shelter sheriff shuttle sierra signal silver siren skate slipper smoke
snail sofa soldier sonata spider spinach spiral sponge spoon squid stadium stallion station statue stencil
student studio summer sunset surgeon swallow symbol syrup table tango target tavern teacher teapot temple
tennis theater thicket thunder tiger timber toast tomato topaz tornado tower tractor treasure trumpet tulip
tunnel turbine turkey turtle tuxedo twilight umbrella uncle unicorn vampire vanilla velvet venus victory
village vinegar violet violin volcano voyage waffle wagon walnut walrus wasabi water wedding whale whisker
whistle willow window winter wombat wonder yacht yard yogurt zebra zenith zipper zodiac
"""
WORDS: Final[tuple[str, ...]] = tuple(_TEXT.split())


WORD_COUNT = 2
LONG_WORD_COUNT = 4
_LISTED = frozenset(WORDS)
MAX_WORDS_CHARACTERS = 320  # number and words, and what they are pasted with
MAX_CODE_CHARACTERS = MAX_WORDS_CHARACTERS + MAX_URL_CHARACTERS
_EXAMPLE = "a code looks like 7-guitar-ozone, or 7-guitar-ozone@192.0.2.1:8080"
_SEPARATORS = re.compile(r"[-\s_.,]+")
_NAMEPLATE = re.compile(r"[1-9][0-9]{0,8}\Z")
_WORD = re.compile(r"[a-z]{1,16}\Z")
# What a pasted code stands in: quotes of several languages, brackets, the end of a sentence or a line.
_AROUND = " \t\r\n\"'`<>(){},;.\u00b4\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb\u2039\u203a"
_LABEL = re.compile(r"code\s*:\s*")  # as `listen` prints it


@dataclass(frozen=True, slots=True)
class Code:
    """A code, taken apart. `str()` gives its canonical spelling; `repr()` keeps the words, which are its secret."""

    nameplate: str
    words: tuple[str, ...] = field(repr=False)
    address: str | None = None

    @property
    def password(self) -> str:
        """What both sides feed to the PAKE."""
        return "-".join(self.words)

    @property
    def relay_url(self) -> str | None:
        """The relay that the code itself names."""
        return None if self.address is None else self.address if "://" in self.address else f"ws://{self.address}"

    def relay_among(self, relays: Sequence[str]) -> str | None:
        """Return the relay where the code was made: the one it names, with what its URL among `relays` has beside.

        A code that names none is looked for at the only relay there is. Where there are several nothing is guessed:
        another relay may have the same nameplate, and the code of somebody else would be used up.

        Returns:
            None: the code names no relay, and `relays` are none or several.
        """
        named = self.relay_url
        if named is None:
            return relays[0] if len(relays) == 1 else None
        place = parse_relay_url(named)
        return next((one for one in relays if parse_relay_url(one).is_same_place(place)), named)

    def check_words(self) -> None:
        """Refuse words that no code has: to try them would only use the code up.

        Raises:
            CodeMalformed: with the nearest word there is.
        """
        for word in self.words:
            if word not in _LISTED:
                nearest = difflib.get_close_matches(word, WORDS, n=1)
                hint = f"did you mean {nearest[0]!r}?" if nearest else "look at it again."
                raise CodeMalformed(
                    f"{word!r} is no word of any code: {hint} Nothing was sent, so the code still works "
                    "(if it does say so, the other side runs another version: install the same on both machines)"
                )

    def __str__(self) -> str:
        at = "" if self.address is None else f"@{self.address}"
        return f"{self.nameplate}-{self.password}{at}"


def generate_words(randbelow: Callable[[int], int] = secrets.randbelow, *, is_long: bool = False) -> tuple[str, ...]:
    """Return the random words of a new code, two or four of them; 9 bits each."""
    return tuple(WORDS[randbelow(len(WORDS))] for _ in range(LONG_WORD_COUNT if is_long else WORD_COUNT))


def parse_code(text: str) -> Code:
    """Return the code that a person typed or pasted.

    Any case; spaces, underscores or any dash between its parts; quotes, brackets or a full stop around it.

    Raises:
        CodeMalformed: a `ValueError` that says what is wrong with it; it does not repeat the code.
    """
    expect(str, text=text)
    if len(text) > MAX_CODE_CHARACTERS or len(text.partition("@")[0]) > MAX_WORDS_CHARACTERS:
        raise CodeMalformed(f"that is {len(text)} characters long; {_EXAMPLE}")
    folded = "".join(_fold(character) for character in unicodedata.normalize("NFKC", text)).strip(_AROUND)
    head, at, address = folded.partition("@")  # an address may have a zone, whose case counts
    head = head.casefold()
    head = _LABEL.sub("", head, count=1).strip(_AROUND) if head.startswith("code") else head
    if not head and not at:
        raise CodeMalformed(f"the code is empty; {_EXAMPLE}")
    parts = [part for part in _SEPARATORS.split(head) if part]
    if not parts or not _NAMEPLATE.match(parts[0]):
        raise CodeMalformed(f"the code does not begin with a number; {_EXAMPLE}")
    if len(parts) - 1 not in (WORD_COUNT, LONG_WORD_COUNT):
        raise CodeMalformed(f"the code has {len(parts) - 1} words after its number, not {WORD_COUNT}; {_EXAMPLE}")
    for word in parts[1:]:
        if not _WORD.match(word):
            raise CodeMalformed(f"{word!r} is not a word of letters; {_EXAMPLE}")
    code = Code(parts[0], tuple(parts[1:]), _parse_place(address.replace(" ", "")) if at else None)
    code.check_words()
    return code


def _parse_place(text: str) -> str:
    """Return what is after the `@` in its canonical spelling: `HOST:PORT`, or the URL of a relay that needs more.

    Raises:
        CodeMalformed: it is neither, or holds what no code does.
    """
    if "://" not in text:
        return parse_host_port(text)
    try:
        url = parse_relay_url(text)
    except ValueError as error:
        raise CodeMalformed(f"what is after the @ names no relay: {error}") from None
    if url.authorization is not None or "?" in url.target:
        raise CodeMalformed("what is after the @ has a user, a password or a query, which no code carries")
    return url.in_code


def parse_host_port(text: str) -> str:
    """Return `HOST:PORT` in its canonical spelling, IPv6 in brackets, perhaps with a zone.

    Raises:
        CodeMalformed: it is not of that form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and len(port) < 10 and 0 < int(port) <= 65535):
        raise CodeMalformed(f"what is after the @ is not HOST:PORT; {_EXAMPLE}")
    in_brackets = host.startswith("[") and host.endswith("]")
    try:
        literal = parse_host(host[1:-1] if in_brackets else host, in_brackets=in_brackets)
    except ValueError as error:
        raise CodeMalformed(f"what is after the @ is not a host and its port: {error}; {_EXAMPLE}") from None
    return f"[{literal}]:{int(port)}" if in_brackets else f"{literal}:{int(port)}"


def _fold(character: str) -> str:
    """Return `-` for whatever looks like a dash, and nothing for what cannot be seen."""
    category = unicodedata.category(character)
    if category == "Pd" or character in "\u2212\u00af\u02d7\u2043":  # minus sign, macron, modifier minus, hyphen bullet
        return "-"
    return "" if category == "Cf" else character
