"""Each named fault must be noticed by its named test: a law that cannot fail is no law."""

from __future__ import annotations

import pytest

from tests.mutations import FAULTS, Fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_fault_is_noticed(fault: Fault, monkeypatch: pytest.MonkeyPatch):
    fault.test()  # passes as it stands
    with monkeypatch.context() as patch:
        fault.apply(patch)
        with pytest.raises(Exception):  # noqa: B017  a fault may show as a failed assertion or as a crash
            fault.test()
    fault.test()
