"""What paths tell of sounds, and which words they are asked for by."""

import re
import unicodedata
from dataclasses import replace

import pytest

from phalar.search import names
from phalar.search.names import WORDS, asked, read, telling
from phalar.sources import INSTRUMENTS

# As sample packs, DAWs and recordings of sessions name files: instrument, tempo and key.
TABLE = """
XX_120_Cmin_bass_loop.wav              | bass       | 120  | Cm
XX_90_F#maj_guitar_loop_clean.wav      | guitar     | 90   | F#
SO_KS_128_synth_lead_Gmin.wav          | lead       |      | Gm
KSHMR_Vocal_Chop_140_Ebmin_Wet.wav     | voice      | 140  | Ebm
LP_Rhodes_Chords_85_Abmaj.wav          | piano      | 85   | Ab
PL_DRUM_LOOP_03_174bpm.wav             | drums      | 174  |
CPA_95_pad_texture_Dbmaj7.wav          | pad        |      |
ESM_Synth_Arp_126_C#m.wav              | lead       | 126  | C#m
120bpm_Am_Piano.wav                    | piano      | 120  | Am
Loop 120bpm.wav                        |            | 120  |
kick_90 BPM.wav                        | drums      | 90   |
BPM120_Strings.wav                     | strings    | 120  |
BPM 98 - Funk Guitar.aif               | guitar     | 98   |
bpm_110_dm_flute.wav                   | pipes      | 110  |
Trumpet 92.5bpm Bb.wav                 | brass      | 92.5 | Bb
Cello_Phrase_72,5 BPM_D minor.flac     | strings    | 72.5 | Dm
Cymatics - Loop 3 - 120 BPM C Min.wav  |            | 120  | Cm
keys_C_min.wav                         | piano      |      | Cm
Guitar C Major.wav                     | guitar     |      | C
Organ in A minor.wav                   | organ      |      | Am
epiano_f#min_100bpm.wav                | piano      | 100  | F#m
choir_emin.wav                         | voice      |      | Em
Sax Riff B FLAT MINOR.wav              | reeds      |      | Bbm
Harp Gliss Eflat.wav                   | plucked    |      | Eb
Pad-Warm-Bb.wav                        | pad        |      | Bb
Marimba (G).wav                        | mallets    |      |
LeadVox_C.wav                          | voice      |      | C
Bass 124bpm E.wav                      | bass       | 124  | E
Gtr_Riff_128_A.wav                     | guitar     |      | A
GTR_Clean_F#min_84.5bpm.aif            | guitar     | 84.5 | F#m
drumloop_130bpm.wav                    | drums      | 130  |
Kick_808_G.wav                         | drums      |      |
808_F#.wav                             | bass       |      | F#
Bass_bip.wav                           | bass       |      |
Bass Guitar.wav                        | bass       |      |
Bass Gtr DI_01.wav                     | bass       |      |
E-Bass.wav                             | bass       |      |
Upright Piano.wav                      | piano      |      |
Bass Drum.wav                          | drums      |      |
Bass Clarinet.wav                      | reeds      |      |
Bassoon 2.wav                          | reeds      |      |
Bass Synth.wav                         | bass       |      |
Synth Bass.wav                         | bass       |      |
Guitar Lead.wav                        | guitar     |      |
Lead Vocal.wav                         | voice      |      |
Vocal Lead DBL.wav                     | voice      |      |
BGVs_Stack.wav                         | voice      |      |
Vocal Take B.wav                       | voice      |      |
Vocal_Take_C.wav                       | voice      |      |
Mic A.wav                              |            |      |
OVERHEADS L.wav                        | drums      |      |
Gtr DI L.wav                           | guitar     |      |
Gtr_B.wav                              | guitar     |      |
Guitar D.wav                           | guitar     |      |
E Gtr.wav                              | guitar     |      |
A Section.wav                          |            |      |
Section_C.wav                          |            |      |
Verse B.wav                            |            |      |
Verse_B_Strings.wav                    | strings    |      |
Side A.wav                             |            |      |
SynthE.wav                             | lead       |      |
Synth A.wav                            | lead       |      |
Snare_E.wav                            | drums      |      |
Snare Bottom.wav                       | drums      |      |
Kick In_02.wav                         | drums      |      |
HiHat-01.wav                           | drums      |      |
Tom_F.wav                              | drums      |      |
That Thing.wav                         |            |      |
Here I Am Vox.wav                      | voice      |      |
A Rainy Day.wav                        |            |      |
Demo 10 AM.wav                         |            |      |
Piano_C3.wav                           | piano      |      |
Vibes_a minor thing.wav                | mallets    |      |
Track_07_Perc.wav                      | percussion |      |
Audio 1_03-bounce-2.wav                |            |      |
Strings_Stem_B.wav                     | strings    |      |
Clarinet in Bb 1.wav                   | reeds      |      |
Bb Trumpet.wav                         | brass      |      |
Horn_F.wav                             | brass      |      |
Alto Sax Eb minor.wav                  | reeds      |      | Ebm
Am I Wrong Choir.wav                   | voice      |      |
"""


@pytest.mark.parametrize("line", TABLE.strip().splitlines())
def test_names_as_others_give_them(line) -> None:
    path, instrument, tempo_bpm, key = (column.strip() for column in line.split("|"))
    expected = (instrument or None, float(tempo_bpm) if tempo_bpm else None, key or None)
    told = read(path)
    assert (told.instrument, told.tempo_bpm, told.key) == expected


def test_what_stands_nearer_to_the_end_of_a_path_counts_more() -> None:
    assert read("song/03-electric_bass_finger.flac").instrument == "bass"
    assert read("Bass House Vol 2/Drums/one.wav").instrument == "drums"
    assert read("x/y/z.wav").instrument is None
    assert read("\u30c9\u30e9\u30e0Bass/\u30ab\u30c9.wav").instrument == "bass"


LIBRARY = [
    "Drums/kick.wav", "Drums/Kicks/808_01.wav", "drumloop_120bpm.wav", "Perc/hit 3.wav",
    "Bassoon/long.wav", "Bass House Vol 2/kick_01.wav", "Bass House Vol 2/sub Am.wav",
    "Bass/Clean/01.wav", "That/thing.wav", "Closed Hat.wav", "HiHat_2.wav", "lead vox.wav",
    "LeadVox.wav", "Vocals/Take 1.wav", "kick_bass_loop.wav", "Demos/caf\xe9 song.wav",
    unicodedata.normalize("NFD", "CAF\xc9/Stra\xdfe.mp3"),
    "\u0414\u043e\u0436\u0434\u044c/\u0433\u0438\u0442\u0430\u0440\u0430.wav",
    "\u0922\u094b\u0932\u0915/\u0932\u0915.wav", "\u30c9\u30e9\u30e0 1.wav",
]  # fmt: skip
DRUMS = {0, 1, 2, 5, 9, 10, 14}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("drums/Drums/drum/DRUM", DRUMS),
        ("kick/Kicks/kik", {0, 1, 5, 14}),
        ("hat/hihat/hi-hat/Hi Hat/HiHats", {9, 10}),
        ("bass/Basses", {1, 6, 7, 14}),
        ("808/808s", {1}),
        ("vocals/voice/Vox", {11, 12, 13}),
        ("lead vocal/LeadVox/lead-vox", {11, 12}),
        ("leadvox", {12}),
        ("bassoon", {4}),
        ("bass house", {5, 6}),
        ("house kick", set()),
        ("that", {8}),
        ("demo", {15}),
        ("caf\xe9/CAFE\u0301", {15, 16}),
        ("STRASSE/stra\xdfe", {16}),
        ("mp3", {16}),
        ("\u0413\u0418\u0422\u0410\u0420\u0410", {17}),
        ("\u0433\u0438\u0442", set()),
        ("\u0922\u094b\u0932\u0915", {18}),
        ("\u0932\u0915", {18}),
        ("\u30c9\u30e9\u30e0", {19}),
        ("drmus", set()),
        ("!", set()),
    ],
)
def test_words_find_what_is_meant_by_them(words, expected, monkeypatch) -> None:
    instruments = [read(path).instrument for path in LIBRARY]
    for word in words.split("/"):
        assert telling(word, LIBRARY, instruments) == expected, word
    # Looking for letters only spares a closer look; it leaves out none.
    monkeypatch.setattr(
        names, "asked", lambda word: replace(asked(word), letters=re.compile("."), whole=None)
    )
    for word in words.split("/"):
        assert telling(word, LIBRARY, instruments) == expected, word


def test_families_are_those_of_the_sources_and_no_word_means_two() -> None:
    assert WORDS.keys() <= set(INSTRUMENTS)
    words = [word for line in WORDS.values() for word in line.replace("/", " ").split()]
    assert len(words) == len(set(words))
    for family in WORDS:
        assert asked(family).family == asked(family.upper()).family == family
        assert read(f"{family}.wav").instrument == family
