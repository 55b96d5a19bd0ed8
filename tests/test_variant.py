"""Variant: what callers hold."""

from __future__ import annotations

import copy
import json
import pickle
import sys

import pytest

from hypotest.variant import CONTROL, CONTROL_VARIANT, Variant
from tests import oracle


def test_names() -> None:
    """A variant tells its name, and whether it is control."""
    assert (Variant("b").variant, Variant("b").is_control) == ("b", False)
    assert (CONTROL_VARIANT.variant, CONTROL_VARIANT.is_control) == (CONTROL, True)
    assert (str(Variant("b")), repr(Variant("b")), f"{Variant('b')}") == ("b", "<Variant: b>", "b")


def test_is_name() -> None:
    """`is_<name>` compares the whole name, for every name."""
    assert Variant("b").is_b
    assert not Variant("b").is_c
    assert not Variant("b").is_
    assert Variant("").is_
    assert Variant("this_one").is_this_one
    assert not Variant("one").is_this_one
    assert not CONTROL_VARIANT.is_control_2
    assert Variant("control_2").is_control_2


@pytest.mark.parametrize("name", ["b", "_is_b", "Is_b", "isb", "control", "__len__", "__deepcopy__"])
def test_other_attributes(name: str) -> None:
    """Any other attribute does not exist."""
    assert not hasattr(Variant("b"), name)


def test_immutable() -> None:
    """Nothing of a variant can be set, added or deleted."""
    variant = Variant("b")
    for name in ("variant", "is_control", "is_b", "other"):
        with pytest.raises(AttributeError):
            setattr(variant, name, "c")
    with pytest.raises(AttributeError):
        del variant.variant
    assert (variant.variant, variant.is_control) == ("b", False)


def test_equality() -> None:
    """Variants are equal by name, hash alike, and equal to nothing else."""
    assert Variant("b") == Variant("b") != Variant("c")
    assert len({Variant("b"), Variant("b"), Variant("c"), "b"}) == 3
    assert Variant("b") != "b"
    assert Variant("b") not in ("b", None, 1)


def test_copies() -> None:
    """A variant can be copied and pickled."""
    variant = Variant("ünï")
    for same in (copy.copy(variant), copy.deepcopy(variant), pickle.loads(pickle.dumps(variant))):
        assert same == variant
        assert same.is_control is False


def test_half_made() -> None:
    """A variant without a name, as a broken unpickler makes it, is an AttributeError and no endless recursion."""
    with pytest.raises(AttributeError):
        _ = Variant.__new__(Variant).is_b


@pytest.mark.parametrize("name", ["control", "b", "ünï", 'say "hi"', "a\\b", "🙂", ""])
def test_like_1_0_9(name: str) -> None:
    """Its texts are those of 1.0.9, letter for letter."""
    oracle.load()
    published = sys.modules[f"{oracle.PACKAGE}.variant"].Variant
    ours, theirs = Variant(name), published(name)
    assert (ours.to_json(), str(ours), repr(ours)) == (theirs.to_json(), str(theirs), repr(theirs))
    assert json.loads(ours.to_json()) == {"variant": name, "is_control": name == "control"}
    for asked in ("control", "b", "other", "ünï"):
        assert getattr(ours, f"is_{asked}") == getattr(theirs, f"is_{asked}")
