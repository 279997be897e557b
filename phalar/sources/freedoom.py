"""Titles and composers of Freedoom's music, after the list of credits of its version 0.13."""

from __future__ import annotations

_BY_COMPOSER: dict[str, dict[str, str]] = {
    'Lola "BlueWorrior" Harvey': {
        "e1m1": "Stanky Leg Specialist",
        "e3m1": "Intrare In Infernum",
        "e3m2": "The Long Road",
        "e3m3": "Wrought Havoc",
        "e3m5": "Scorned by Flesh",
        "e3m6": "Soul Banisher",
        "e3m7": "Ultamatum Infurnus",
        "e3m8": "The Zenith",
        "e3m9": "No-Clip to the End",
        "dm2int": "FTW You 100",
        "runnin": "Not My First Rodeo...",
        "stalks": "Dark Underworld",
        "doom": "Under Maintenance",
        "ddtblu": "Syntax Error",
        "in_cit": "Terrible Secrets",
        "runni2": "Backpack of Shells",
        "stlks3": "Mow Them Down!",
        "tense": "Skull Underfoot",
        "evil": "The Machine",
    },
    "Korp": {
        "victor": "Distance",
        "e2m1": "Moonstone",
        "e2m2": "Voidgaze",
        "e2m3": "Workout",
        "e2m4": "Diodine",
        "e2m5": "Reminiscence",
        "e2m6": "Concept of Technology",
        "e2m7": "Ribcage",
        "e2m8": "Treble Dissension",
        "e2m9": "Nightstorm",
        "e4m5": "Main Code",
        "e4m7": "Ambiguity",
        "dm2ttl": "Horizon's Call",
        "betwee": "Indigo",
        "ddtbl3": "Alien Waltz",
    },
    'Kevin "Velvetic" Martins & Jonathan "julnen" Martins': {
        "e1m3": "Alone with Colors",
        "e1m4": "Flood the City",
        "ddtbl2": "About the Summer",
        "romer2": "Dreamcatcher (Black and Blue)",
        "ultima": "Black Mountain",
    },
    "continuum.mid": {
        "e4m1": "Liberate the Stars",
        "e4m4": "Deliberate Concealment",
        "e4m8": "Vs. The Assault Quindecapod",
        "e4m9": "The Deepest Secrets",
        "shawn": "Fun is Infinite at AGM",
    },
    "Korp, after jute": {
        "e1m6": "Oxidine",
        "e1m9": "Hidden Between Spades",
        "stlks2": "Undergrowth",
        "count2": "Rough Landing",
    },
    'Korp, after Tyler "Picklehammer" P.': {
        "intro": "Fight for Freedom",
        "the_da": "Refrigeration",
        "openin": "Devoured by the Jaws of Defeat",
    },
    'Josephus "DH4050" Astartes': {
        "e1m7": "Totally Surrounded",
        "messag": "Beasts of Horizon",
    },
    'Kevin "Velvetic" Martins': {
        "e1m8": "On the Next Day",
        "romero": "Realistic Approach",
    },
    "Discoholic": {
        "countd": "Demon Dance",
        "doom2": "Fear",
    },
    'Jeremy "Vandalorian" Emerson': {
        "dead": "Soviet Porno",
        "adrian": "I Sought Wisdom in the Chalice But There Was None",
    },
    "Stratos": {
        "inter": "YOU LIVE!!!!",
    },
    "Goji": {
        "bunny": "Impactean Welcome Party",
    },
    'Mark "TheMisterCat" McGill-Smith': {
        "e1m2": "Look At Me I'm Underhalls Too",
    },
    'Kevin "Velvetic" Martins & Jonathan "julnen" Martins, modified by Goji': {
        "e1m5": "The Raging Sun",
    },
    "Mr795": {
        "e3m4": "Realm of Hell",
    },
    "Proxy-MIDI": {
        "e4m2": "Fight Harder... To Obtain a Better Victory!",
    },
    "Matzu": {
        "e4m3": "Space Spectre",
    },
    "ZeMystic": {
        "e4m6": "Andromeda",
    },
    "jute": {
        "read_m": "dave3d07",
    },
    'Discoholic, after Samuel "Blastfrog" Oliver': {
        "theda2": "Sewers",
    },
    "Scragadelic": {
        "dead2": "Reflection",
    },
    'Julian "Julian Hope" Aubourg, modified by m': {
        "shawn2": "Deceit",
    },
    "MoonDeLaAxel & Korp": {
        "ampie": "Within the Trilo's Den",
    },
    "Korp, after Andrew Bassett": {
        "theda3": "Space's Despair",
    },
    'Korp, after Samuel "Blastfrog" Oliver': {
        "messg2": "Stormer",
    },
    'Tyler "Picklehammer" P.': {
        "shawn3": "Mists Over the Mire",
    },
}

CREDITS = {
    lump: (title, composer)
    for composer, pieces in _BY_COMPOSER.items()
    for lump, title in pieces.items()
}
"""Title and composer by the name of the lump, without its `D_` and in small letters."""
