import inspect

import pytest

from obverse import errors


def every_error():
    return [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.ObverseError)]


def test_every_error_has_a_documented_exit_code_of_its_own():
    codes = [c.exit_code for c in every_error()]
    assert len(set(codes)) == len(codes)
    assert set(codes) <= set(errors.EXIT_CODES)


def test_the_tree_in_the_docstring_names_every_error():
    assert [c.__name__ for c in every_error() if c.__name__ not in (errors.__doc__ or "")] == []


def test_a_missing_package_names_the_extra_that_brings_it():
    with pytest.raises(errors.MissingPackageError, match=r'reading \.xyz needs .*pip install "obverse\[video\]"'):
        errors.need("surely_not_installed", extra="video", purpose="reading .xyz")


def test_a_present_package_is_returned():
    assert errors.need("json", extra="none").dumps([1]) == "[1]"
