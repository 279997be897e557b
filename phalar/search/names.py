"""What the path of a sound file tells: instrument, tempo and key, as loops are commonly named."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from phalar.search.estimate import WITHOUT_KEY

WORDS = {
    "drums": "drum/drums/drumkit/drumloop/drumbeat kick/kik/bd/kickdrum/bassdrum kit snare/snr "
    "hat/hihat/hh beat breakbeat tom cymbal crash ride rimshot overhead",
    "percussion": "percussion/perc shaker tambourine/tamb conga bongo clap cowbell cajon timpani",
    "bass": "bass/bassline/bassloop sub/subbass 808 reese upright",
    "guitar": "guitar/gtr egtr agtr strum ukulele banjo",
    "piano": "piano/pno/keys/epiano rhodes wurlitzer/wurli clavinet/clav harpsichord",
    "organ": "organ hammond b3 accordion harmonica",
    "mallets": "mallet vibraphone/vibes marimba xylophone glockenspiel celesta kalimba bell",
    "strings": "string violin/vln viola/vla cello/vlc contrabass orchestra",
    "plucked": "plucked/pluck harp sitar koto mandolin lute",
    "voice": "voice/vocal/vox bgv/bv/bvox adlib choir singer acapella/acappella soprano alto tenor",
    "brass": "brass trumpet/tpt trombone/tbn tuba horn cornet",
    "reeds": "reed sax/saxophone clarinet oboe bassoon/bsn",
    "pipes": "pipe flute piccolo recorder whistle ocarina",
    "lead": "lead synth arp/arpeggio melody saw",
    "pad": "pad atmosphere ambient drone texture",
    "effects": "effects/effect/fx/sfx riser uplifter downlifter impact sweep noise",
}
"""Words of names by the family of instruments that they mean: first those of the family itself.

Words between which there is a `/` mean the same; plurals need not be named.
"""

_GROUPS = {
    word: words.split("/")[0]
    for line in WORDS.values()
    for words in line.split()
    for word in words.split("/")
}
"""The first of the words that mean the same, by each of them."""

_FAMILIES = {
    words.split("/")[0]: family for family, line in WORDS.items() for words in line.split()
}
_HEADS = {family: line.split()[0].split("/")[0] for family, line in WORDS.items()}
_NAMES = {head: family for family, head in _HEADS.items()}
_SPELLED = {
    words.split("/")[0]: words.split("/") for line in WORDS.values() for words in line.split()
}
_ROLES = re.compile(
    "lead|synth|arp|melody|saw|atmosphere|ambient|drone|texture|noise|beat|upright|808"
)
"""What an instrument does, or how it sounds: it counts where no instrument is named beside it."""

# Letters without capitals stand as NUL, which no path holds, so that these are words of their own.
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\0+|\d+", re.ASCII)
_RUN = re.compile(r"[A-Za-z0-9\0]+")
_START, _END = (
    rf"(?:{beside}|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]))"
    for beside in ("(?<![A-Za-z])", "(?![A-Za-z])")
)
_BASS_GUITAR = re.compile(r"(?<=\bbass) guitar\b")

_TEMPO = re.compile(
    r"(?<![\d.,])(\d{2,3}(?:[.,]\d+)?)[\s_-]*bpm(?![a-z])"
    r"|(?<![a-z])bpm[\s_=-]*(\d{2,3}(?:[.,]\d+)?)(?!\d)",
    re.IGNORECASE,
)
_BARE = re.compile(r"[6-9]\d|1\d\d|200")
"""A number that is a tempo where it stands beside a key."""

# A small letter is a tonic only where the rest leaves no doubt: `a minor` may be any two words.
_KEY = re.compile(
    r"([A-G]|[a-g](?=[#♯]|[b♭]?(?i:maj|min))|[b-g](?=[ ](?i:maj|min)))"
    r"([#♯b♭]|(?i:sharp|flat)|[ ](?i:sharp|flat)(?=[ ]?(?i:m)))?"
    r"(m|[ ]?(?i:major|maj|minor|min))?"
)
_SIGNS = {"♯": "#", "♭": "b", "sharp": "#", "flat": "b"}
_MINOR = ("m", "min", "minor")
_LAST_LETTER = re.compile(r"[_-][A-G]\W*$")

_BUILT_IN = ("brass", "reeds", "pipes")
"""Of these a tone without a mode is rather that which they are built in, as a clarinet in Bb."""

_LETTERED = re.compile(
    "alt|alternative|bounce|bus|cam|channel|chorus|ch|demo|disc|double|dbl|di|dub|group|hook|idea|"
    "intro|layer|left|line|loop|mic|mix|option|opt|outro|part|pass|pattern|pat|plan|position|pos|"
    "pre|right|scene|section|side|solo|stem|string|tape|tk|take|track|trk|unit|variation|var|ver|"
    "version|verse|vol"
)
"""Words of which there are an A and a B: a letter after them is no key."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a path tells of a sound; None where it says nothing."""

    instrument: str | None
    """A family of `phalar.sources.INSTRUMENTS`."""
    tempo_bpm: float | None
    key: str | None
    """Such as `A` or `F#m`."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A word that files are asked for, and all that it may stand as in a path."""

    family: str | None
    """The family of instruments that the word is a name of."""
    phrases: tuple[str, ...]
    """Words with a space around each; one of these has to stand in the path, of other words."""
    letters: re.Pattern[str]
    """A folded path in which none of these stand needs no closer look."""
    whole: re.Pattern[str] | None
    """Finds these as whole words in a path of ASCII; None where that takes more."""


def read(path: str) -> Told:
    """Read what a path of `/` tells; what stands nearer to its end counts more."""
    stem, *folders = _parts(path)
    told = next(filter(None, map(_told, (stem, *folders))), ())
    instruments = [word for word in told if not _ROLES.fullmatch(word)] or told
    instrument = _FAMILIES[instruments[-1]] if instruments else None
    tempo_bpm, key = _tempo_and_key(unicodedata.normalize("NFC", stem), instrument)
    return Told(instrument, tempo_bpm, key)


@lru_cache(maxsize=256)
def asked(word: str) -> Asked:
    """Read a word that files are asked for: a name of a family in any form, or words of a path.

    Capitals, plurals, and how an accent is encoded make no difference, nor which of the words is
    taken that mean the same, such as `vocals` and `vox`.
    """
    words = _words(word)
    joined = _same("".join(_cut(_RUN, word)))
    phrases = {f" {' '.join(words)} ", f" {joined} "} if words else set()
    family = _NAMES.get(joined)
    if family:
        heads = [group for group, its in _FAMILIES.items() if its == family]
        spelled = {spelling for head in heads for spelling in _SPELLED[head]}
    else:
        longest = max(words, key=len, default="")
        spelled = {
            spelling for each in (longest, joined) for spelling in _SPELLED.get(each, [each])
        }
    # What holds no letter is told by no path.
    letters = re.compile("|".join(map(re.escape, spelled)) if words else "(?!)")
    return Asked(family, tuple(phrases), letters, _whole(spelled, family, len(words)))


def _whole(spelled: set[str], family: str | None, words: int) -> re.Pattern[str] | None:
    plain = {each for each in spelled if re.fullmatch("[a-z]+", each)}
    # What a name tells of a family is looked at again, so others need not be whole here.
    if words != 1 or not plain or (plain != spelled and family is None):
        return None
    others = "".join(f"|(?i:{re.escape(each)})" for each in spelled - plain)
    return re.compile(f"{_START}(?i:{'|'.join(map(_many, plain))}){_END}{others}")


def telling(word: str, paths: Sequence[str], instruments: Sequence[str | None]) -> set[int]:
    """Find the paths that tell of what is asked for.

    Parameters
    ----------
    word : str
        Of a family, what a path tells last decides: the part nearest to its end that names
        instruments; or a folder is called just that. `Bass House/kick.wav` is no bass, but
        `Bass/kick.wav` is. Other words may stand anywhere in the path, whole and in this order.
    paths : sequence of str
        With `/`.
    instruments : sequence of str or None
        The family of each, where it is known.

    Returns
    -------
    set of int
        Their places.
    """
    wanted = asked(word)
    # One pass over the folded text of all paths, between which there is a NUL that none can hold.
    text = fold("\0".join(paths))
    ends = np.cumsum([len(each) + 1 for each in text.split("\0")])
    hits = [hit.start() for hit in wanted.letters.finditer(text)]
    near = set(np.searchsorted(ends, hits, "right").tolist())
    whole, family = wanted.whole, wanted.family
    if family is None:
        return {
            place
            for place in near
            if (whole.search(paths[place]) if whole and paths[place].isascii()
                else _stands(wanted.phrases, paths[place]))
        }  # fmt: skip
    of_it = {place for place, known in enumerate(instruments) if known == family}
    return of_it | {place for place in near - of_it if _tells(family, whole, paths[place])}


def meant(word: str) -> list[str]:
    """Give words of instruments: a word itself if it is one, else the one spelled nearly so."""
    if any(phrase.strip() in _FAMILIES for phrase in asked(word).phrases):
        return [word]
    return difflib.get_close_matches(fold(word), _GROUPS, 1)


def fold(text: str) -> str:
    """Make alike what differs in capitals, or in how accents are encoded."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _stands(phrases: Iterable[str], path: str) -> bool:
    texts = [f" {' '.join((*_words(part), '|', *_compounds(part)))} " for part in path.split("/")]
    return any(phrase in text for text in texts for phrase in phrases)


def _tells(family: str, whole: re.Pattern[str] | None, path: str) -> bool:
    folder, _, name = path.rpartition("/")
    is_called, decides = _in_folder(folder, family)
    if is_called or not (decides or whole is None or not name.isascii() or whole.search(name)):
        return is_called
    told = _told(_parts(name)[0])
    return any(_FAMILIES[word] == family for word in told) or (decides and not told)


@lru_cache(maxsize=4096)
def _in_folder(folder: str, family: str) -> tuple[bool, bool]:
    """Whether a folder, or one that it lies in, is called just as a family; whether it tells it."""
    folders = folder.split("/")[::-1]
    is_called = any(
        [word for word in _words(each) if not word.isdecimal()] == [_HEADS[family]]
        for each in folders
    )
    told = next(filter(None, map(_told, folders)), ())
    return is_called, any(_FAMILIES[word] == family for word in told)


def _parts(path: str) -> list[str]:
    """Split a path, the name of the file first, and without what it ends in."""
    *folders, name = path.split("/")
    return [name.rpartition(".")[0] or name, *reversed(folders)]


def _told(name: str) -> tuple[str, ...]:
    """List the words of instruments in a name, by the first of those that mean the same."""
    found = (*_compounds(name), *_words(name))
    if "bass" in found and "guitar" in found:
        found = tuple(_BASS_GUITAR.sub("", " ".join(found)).split())
    return tuple(word for word in found if word in _FAMILIES)


@lru_cache(maxsize=4096)
def _words(name: str) -> tuple[str, ...]:
    """Split a name into words, as `LeadVox_01`, each by the first of those that mean the same."""
    return tuple(map(_same, _cut(_WORD, name)))


def _compounds(name: str) -> tuple[str, ...]:
    """List what stands together of several words, as `HiHat`."""
    runs = _cut(_RUN, name)
    words = _cut(_WORD, name) if len(runs) < len(_words(name)) else runs
    return tuple(_same(run) for run in runs if run not in words)


def _cut(pattern: re.Pattern[str], name: str) -> list[str]:
    """Cut a name where the pattern says for letters A, a and NUL, and digits 0; folded."""
    if name.isascii():
        return [found.lower() for found in pattern.findall(name)]
    name = unicodedata.normalize("NFC", name)
    return [fold(name[slice(*found.span())]) for found in pattern.finditer(_shape(name))]


def _shape(name: str) -> str:
    """Write capitals of any script as A, small letters as a, neither as NUL, and digits as 0."""
    shape: list[str] = []
    for letter in name:
        kind = unicodedata.category(letter)
        before = shape[-1] if shape else " "
        if kind[0] == "M" or kind == "Lm":
            # It belongs to the letter before.
            shape.append("a" if before == "A" else before)
        elif kind in ("Lu", "Lt"):
            shape.append("A")
        else:
            shape.append({"Ll": "a", "Lo": "\0", "Nd": "0"}.get(kind, " "))
    return "".join(shape)


@lru_cache(maxsize=4096)
def _same(word: str) -> str:
    """Give the first of the words that mean the same as a folded one; one for many of a thing."""
    if word in _GROUPS:
        return _GROUPS[word]
    one = word
    if word.endswith(("ches", "shes", "sses", "xes")):
        one = word[:-2]
    elif len(word) > 2 and word[-1] == "s" and word[-2] not in "su'i":
        one = word[:-1]
    return _GROUPS.get(one, one)


def _many(word: str) -> str:
    """Write a pattern of one and of many of a thing, as `_same` has it."""
    if len(word) < 2:
        return word
    if word.endswith(("ch", "sh", "x")):
        return f"{word}(?:e?s)?"
    return f"{word}(?:es)?" if word.endswith("ss") else word + "s?" * (word[-1] not in "sui")


def _tempo_and_key(name: str, instrument: str | None) -> tuple[float | None, str | None]:
    tempo = _TEMPO.search(name)
    tempo_bpm = float((tempo[1] or tempo[2]).replace(",", ".")) if tempo else None
    words = list(filter(None, re.split(r"[\s_.,()\[\]{}+&-]+", name)))
    for place in range(len(words) - 1, -1, -1):
        for width in (3, 2, 1):
            key = _KEY.fullmatch(" ".join(words[place : place + width]))
            if key is None or not (key[2] or key[3]):
                continue
            beside = (*words[place - 1 : place], *words[place + width : place + width + 1])
            bare = next(filter(_BARE.fullmatch, beside), None)
            if (key[0] == "Am" and "I" in beside) or (
                instrument in _BUILT_IN and not (key[3] or tempo_bpm or bare)
            ):
                continue
            return tempo_bpm or (float(bare) if bare else None), _written(key)
    is_loop = tempo_bpm is not None or bool(_BARE.fullmatch("".join(words[-2:-1])))
    if instrument in WITHOUT_KEY or (instrument in _BUILT_IN and not is_loop):
        return tempo_bpm, None
    return tempo_bpm, _lone_key(name, words, is_loop=is_loop)


def _lone_key(name: str, words: list[str], *, is_loop: bool) -> str | None:
    """Read a letter alone: a key only at the end, where loops carry it, and not what is lettered.

    Without a tempo, A and B are rather the first and the second of something.
    """
    if len(words) < 2 or words[-1] not in tuple("ABCDEFG"):
        return None
    if _LETTERED.fullmatch(words[-2].lower()):
        return None
    is_joined = words[-1] not in "AB" and _LAST_LETTER.search(name)
    return words[-1] if is_loop or is_joined else None


def _written(key: re.Match[str]) -> str:
    return written(key[1], key[2] or "", key[3] or "")


def written(tonic: str, sign: str, mode: str) -> str:
    """Write a key as all are here: `A`, `Bb`, `F#m`; an `M` is major, an `m` minor."""
    sign = sign.strip().lower()
    mode = mode.strip() if mode.strip() == "M" else mode.strip().lower()
    return f"{tonic.upper()}{_SIGNS.get(sign, sign)}{'m' if mode in _MINOR else ''}"
