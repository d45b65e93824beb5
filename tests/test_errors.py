import sys
import threading

from sam3d_nnunet.errors import SAM3DError, show_as_sentence


def test_a_mistake_is_shown_as_its_sentence_alone(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: shown.append(error))
    show_as_sentence()
    show_as_sentence()  # once is enough
    mistake, lost, other = SAM3DError("Make room."), ConnectionResetError("of a worker"), KeyError("of ours")
    thread = threading.Thread(target=sys.excepthook, args=(type(lost), lost, None))
    thread.start()
    thread.join()
    assert shown == []
    for error in (mistake, lost, other):
        sys.excepthook(type(error), error, None)
    assert shown == [lost, other] and capsys.readouterr().err == "Error: Make room.\n"
