"""Connects live mode with the prompt, its words and the engine: what is drafted when, and where drafts are shown."""

from __future__ import annotations

import msgspec
from PySide6.QtCore import QObject, QTimer, Signal

from app.bridge import EngineBridge
from app.live import LiveDrafts
from app.models import Models
from app.pace import Pace
from app.panels.canvas import to_image
from app.panels.prompt import PromptPanel
from app.settings import Session
from app.shown import Kind, Picture
from core.messages import Event, Request, Result, new_id

# Words get their pictures when the caret has rested on one of them this long.
_OFFER_MS = 160


class Drafting(QObject):
    """`submitted` and `ready` tell of drafts that belong on the canvas: one asked for, one remembered."""

    submitted = Signal(object, object)  # Request; float or None: the seconds that it will probably take
    ready = Signal(object, bytes)  # Result, pixels

    def __init__(
        self, prompt: PromptPanel, bridge: EngineBridge, session: Session, models: Models, parent: QObject
    ) -> None:
        super().__init__(parent)
        self._prompt, self._bridge, self._session, self._models = prompt, bridge, session, models
        self._settings = session.settings
        self._pace = Pace(session.draft_seconds)
        self._live = LiveDrafts(self._submit, bridge.cancel, self._pace, self)
        self._live.enabled = self._settings.live
        self._live.anyway = set(session.drafted_anyway)
        self._pause: float | None = None
        self._offering = QTimer(self)
        self._offering.setSingleShot(True)
        self._offering.setInterval(_OFFER_MS)
        self._offering.timeout.connect(self._offer_words)
        self._live.ready.connect(self.ready)
        self._live.word_ready.connect(self._word_ready)
        self._live.paused.connect(self._paused)
        self._show()

    @property
    def on(self) -> bool:
        """Whether drafts come while typing."""
        return self._settings.live and self._pause is None

    # -- what the studio tells ---------------------------------------------------------------------------------------

    def changed(self, *, at_once: bool = False) -> None:
        """The prompt or a setting changed; `at_once` where no further key is expected."""
        self._live.changed(self._request(), at_once=at_once)
        self.offer_soon()

    def taken_over(self) -> None:
        """Prompt and settings are those of a picture that is shown, or the model is another: no draft, but words."""
        self._live.look(self._request())
        self.offer_soon()

    def offer_soon(self) -> None:
        """Make the pictures of the words at the caret, if it rests there and the engine has time."""
        self._offering.start()

    def forget(self) -> None:
        """Ask for nothing more."""
        self._live.forget()

    def take(self, event: Event, *, busy: bool) -> None:
        """Learn from an event of the engine; `busy` while it has full pictures to make."""
        self._live.engine_busy = busy
        self._live.take(event)

    def close(self) -> None:
        """End."""
        self._live.forget()
        self._offering.stop()

    def keep(self) -> None:
        """Write what the next session shall know into the session."""
        self._session.draft_seconds = self._pace.remembered()
        self._session.drafted_anyway = sorted(self._live.anyway)

    # -- the person --------------------------------------------------------------------------------------------------

    def switch(self, on: bool) -> None:
        """Draft while typing, or not. Switched on or off for a slow model it is meant for that model alone."""
        model = self._settings.model
        if on:
            self._settings.live = True
            if self._pace.is_slow(self._request()):
                self._live.anyway.add(model)
        elif model in self._live.anyway:
            self._live.anyway.discard(model)
        else:
            self._settings.live = False
        self._live.enabled = self._settings.live
        self.changed()
        self._show()

    def now(self) -> None:
        """Make a draft, also where drafts while typing are switched off or take too long."""
        if self._settings.prompt.strip():
            self._live.draft_now(self._request())

    # -- live mode ---------------------------------------------------------------------------------------------------

    def _request(self) -> Request:
        return self._settings.request(draft=True, draft_steps=self._models.defaults.draft_steps)

    def _submit(self, request: Request, ahead: bool) -> None:
        if not ahead:
            self.submitted.emit(request, self._pace.seconds(request))
        self._bridge.submit(request)

    def _offer_words(self) -> None:
        """Let live mode make the pictures of the words that could stand at the caret."""
        edit = self._prompt.edit
        span = edit.word
        self._prompt.words.clear_images()
        if span is None or not self._settings.live:
            self._live.offer([])
            return
        text = edit.toPlainText()
        offers = []
        for word in edit.vocabulary.choices(span):
            start, new = edit.vocabulary.replaced(text, span, word)
            prompt = (text[:start] + new + text[span.end :]).strip()
            offers.append((word, msgspec.structs.replace(self._request(), id=new_id(), prompt=prompt)))
        self._live.offer(offers)

    def _word_ready(self, word: str, result: Result, pixels: bytes) -> None:
        picture = Picture(result.id, Kind.DRAFT, result.width, result.height, pixels)
        self._prompt.words.set_image(word, to_image(picture))

    def _paused(self, seconds: float | None) -> None:
        self._pause = seconds
        self._show()

    def _show(self) -> None:
        self._prompt.drafts.show_drafting(self.on, self._pause)
        self._prompt.words.set_pictured(self.on)
