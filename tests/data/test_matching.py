from __future__ import annotations

import pytest

from flip.data.matching import fold, match_classes
from flip.errors import DataError


def test_names_are_compared_by_letters_and_digits_in_lower_case():
    classnames = ("Black footed Albatross", "Le Conte's Sparrow", "707-320")
    given = ("LeContes_Sparrow", "le conte’s sparrow", "black_footed_albatross", "707 320")
    with pytest.raises(DataError, match=r"--augmented made has class 'LeContes_Sparrow', which is not among the 3"):
        match_classes(given, classnames, "--augmented made")
    assert match_classes(given[1:], classnames, "--augmented made").tolist() == [1, 0, 2]
    assert fold("Le Conte’s  Sparrow") == "le contes sparrow"


def test_where_two_classes_fold_to_one_both_must_be_written_exactly():
    classnames = ("c-d", "c d", "e")
    assert match_classes(("c d", "c-d", "E"), classnames, "x").tolist() == [1, 0, 2]
    with pytest.raises(DataError, match="x has class 'C_D'"):
        match_classes(("C_D",), classnames, "x")


def test_no_class_given_is_none():
    assert match_classes((), ("a",), "x").shape == (0,)
