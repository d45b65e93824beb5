"""What users may write for the label of a click: the same in tables, in point lists of 3D Slicer and in commands.

A text may be a number, the name of a class of the model, or a word for background or foreground. 3D Slicer numbers the
points of a list, so a list "tumour" holds "tumour-1", "tumour-2"; its own names of lists say nothing. A text that could
mean two things is refused, and so is one that means none.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.io import brief

BACKGROUND = ("background", "bg", "negative", "neg", "N", "exclude")
FOREGROUND = ("foreground", "fg", "positive", "pos", "P", "include")
OF_WHAT = ("", " point", " points", " click", " clicks")
UNLABELLED = 1
"""Label of a click that names no class."""
ANY_CLASS = -1
"""Meaning of the words for foreground: no class is named."""
WORDS = {word + of: 0 for word in BACKGROUND for of in OF_WHAT}
WORDS |= {word + of: ANY_CLASS for word in FOREGROUND for of in OF_WHAT}
SIGNS = {"-": 0, "+": ANY_CLASS}

# Slicer names a new list "F" (toolbar) or "MarkupsFiducial" (Markups module of 4.11, scripts); a second one gets "_1".
AUTOMATIC = ("F", "MarkupsFiducial")
# fewer digits than int64 holds, so that the number always fits; pandas writes labels as 1.0 where others are missing
NUMBER = re.compile(r"(?:(?:label|class)\s*=\s*)?([0-9]{1,18})(?:[.,]0*)?", re.IGNORECASE)
RUNNING_NUMBER = re.compile(r"(?:[-_ ]+|(?<=[^\W\d_]))[0-9]+$")


class LabelReader:
    """Labels of the clicks in one file, and what was assumed for them.

    Args:
        class_names: `labels` of dataset.json. Regions (lists of labels) are left out, since a click has one label.
            None: the names are unknown.
        case: name of the case. It says nothing about a label.
        file_name: name of the file without its ending. It counts for clicks that say nothing themselves, unless it is
            the name of the case, as "case_1_0000" is that of "case_1".
    """

    def __init__(self, class_names: Mapping[str, object] | None = None, case: str = "", file_name: str = "") -> None:
        self._classes = {name: k for name, k in (class_names or {}).items() if isinstance(k, int)}
        classes = defaultdict(list)
        for name, label in self._classes.items():
            classes[loose(name)].append((name, label))
        self._known = {loose(word): [(word, label)] for word, label in WORDS.items()} | classes  # a class "P" wins
        self._regions = [name for name in class_names or {} if name not in self._classes]
        self._case, self._file_name = case, file_name
        self._from_name = Counter()
        self._unlabelled = 0

    def read(self, texts: Mapping[str, str], where: str, list_name: str = "") -> int:
        """Label of a click: from the first text that says something, else from the name of its list or file, else 1.

        Args:
            texts: what is written for the click, by what errors call it.
            where: place of the click, for errors.
            list_name: name of the list that holds the click, if known.

        Raises:
            SAM3DError: a text names no label, or could mean several.
        """
        empty = {loose(name) for name in (*AUTOMATIC, self._case, self._file_name, list_name)}
        for kind, text in texts.items():
            label = self._meaning(text.strip(), empty, f"{where} has the {kind} {brief(text)}, which")
            if label is not None:
                return self._counted(label)
        for name in (list_name, self._file_name):
            if self._names_the_case(name):
                continue
            labels = {label for _, _, label in self._matches(name)}
            if len(labels) == 1:
                label = self._counted(labels.pop())
                self._from_name[name, label] += 1
                return label
        return self._counted(ANY_CLASS)

    def notes(self) -> list[str]:
        """What was assumed for clicks that say nothing themselves, or no class where 1 is not the only one."""
        notes = [
            f"{count} click(s) have the label {self._shown(label)} of the name {brief(name)}"
            for (name, label), count in self._from_name.items()
        ]
        foreground = [label for label in self._classes.values() if label != 0]
        if self._unlabelled and foreground not in ([], [UNLABELLED]):
            notes.append(f"{self._unlabelled} click(s) name no class and have the label {self._shown(UNLABELLED)}")
        return notes

    def _names_the_case(self, name: str) -> bool:
        """Whether the name of a list or file is that of the case, maybe with the number of a channel or a copy."""
        return any(loose(form) == loose(self._case) for form in _forms_of(name))

    def _meaning(self, text: str, empty: set[str], subject: str) -> int | None:
        """Label that a text stands for; None if it says nothing."""
        if not text:
            return None
        if text in SIGNS:
            return SIGNS[text]
        if number := NUMBER.fullmatch(text):
            return int(number[1])
        matches = self._matches(text, empty)
        if not matches:
            for form in _forms_of(text):  # a list named for its label: "2-1"
                if number := NUMBER.fullmatch(form):
                    return int(number[1])
            raise SAM3DError(f"{subject} names no label. {self._forms(text)}")
        form = matches[0][0]
        for same in (str, str.casefold):
            exact = {label for of, name, label in matches if of == form and same(name) == same(form)}
            if len(exact) == 1:
                return exact.pop()
        labels = {label for _, _, label in matches}
        if len(labels) > 1:
            names = " or ".join(dict.fromkeys(brief(name) for _, name, _ in matches))
            raise SAM3DError(f"{subject} could mean {names}. Write the number of the class.")
        return labels.pop()

    def _matches(self, text: str, empty: Collection[str] = ()) -> list[tuple[str, str, int | None]]:
        """Known forms of a text, the longest first, each with the name it is known by and what that stands for.

        Args:
            text: what is written.
            empty: loose names that say nothing, unless they are classes or words.
        """
        matches = []
        for form in _forms_of(text):
            known = self._known.get(loose(form)) or ([(form, None)] if loose(form) in empty else [])
            matches += [(form, name, label) for name, label in known]
        return matches

    def _forms(self, text: str) -> str:
        """Sentences for errors: the nearest name, and what users may write."""
        names = {loose(name): name for name in ("background", "negative", "foreground", "positive", *self._classes)}
        nearest = [n for form in _forms_of(text) for n in get_close_matches(loose(form), names, 1)]
        classes = ", ".join(f"{name} ({k})" for name, k in self._classes.items())
        regions = f" Regions have no label: {', '.join(self._regions)}." if self._regions else ""
        return (
            (f"Did you mean {names[nearest[0]]}? " if nearest else "")
            + f"Write a number, label=K, the name of a class ({classes or 'unknown here'}), "
            + f"{BACKGROUND[0]} (or {', '.join(BACKGROUND[1:])}) or {FOREGROUND[0]} (or {', '.join(FOREGROUND[1:])})."
            + regions
        )

    def _counted(self, label: int) -> int:
        """The label of a click, 1 if it names no class."""
        if label != ANY_CLASS:
            return label
        self._unlabelled += 1
        return UNLABELLED

    def _shown(self, label: int) -> str:
        """A label with the name of its class."""
        name = next((name for name, k in self._classes.items() if k == label), None)
        return str(label) if name is None else f"{label} ({name})"


def loose(name: str) -> str:
    """A name without what people write differently: case, spaces, hyphens, underscores, and the parts of accents."""
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold())


def _forms_of(text: str) -> Iterator[str]:
    """A text, then without the number of the point, then without that of a copied list: "F_1-2", "F_1", "F"."""
    for _ in range(3):
        if not loose(text) or text[0] in SIGNS or text.endswith("="):  # "-1", "label=-1": wrong numbers
            return
        yield text
        shorter = RUNNING_NUMBER.sub("", text)
        if shorter == text:
            return
        text = shorter
