"""The studio: what happens when the person or the engine does something. It connects state, panels and bridge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from PySide6.QtCore import QObject, QThreadPool, QTimer
from PySide6.QtWidgets import QFileDialog

from app.bridge import EngineBridge
from app.live import LiveDrafts
from app.models import STARTER, Models
from app.panels.canvas import to_image
from app.pictures import PictureActions
from app.present import present
from app.settings import Session, write_session
from app.shown import Kind, Picture, Topic
from app.state import StudioState
from app.theme.theme import theme
from app.vocabulary import Vocabulary
from app.window import StudioWindow
from core.library.queue import Job, State
from core.messages import EngineStopped, Event, Request, ResidencyError, Result, new_id

_SAVE_MS = 1000
# Words get their pictures when the caret has rested on one of them this long.
_OFFER_MS = 160


class Studio(QObject):
    """Connects the window, the state, live mode and the bridge to the engine."""

    def __init__(self, window: StudioWindow, bridge: EngineBridge, session: Session, models: Models) -> None:
        super().__init__(window)
        self.window, self.bridge, self.session, self.models = window, bridge, session, models
        self.settings = session.settings
        self.state = StudioState()
        self.live = LiveDrafts(self._submit_draft, bridge.cancel, self)
        self.pictures = PictureActions(window, self.say)
        self._closed = False
        self._saving = _timer(self, _SAVE_MS, self.save)
        self._offering = _timer(self, _OFFER_MS, self._offer_words)
        self._show_session()
        self._connect()

    def begin(self) -> None:
        """After the first frame: start the engine and read what was kept."""
        self.bridge.start()
        self.window.options.show_models(self.models.names(), self.settings.model)
        if self.settings.model not in self.models.names():
            self._refresh(self.state.tell(f"{self.settings.model} is not among your models any more; open its folder."))
            self.settings.model = STARTER
            self.window.options.show_models(self.models.names(), STARTER)
        self._use_model(self.settings.model)
        if self.settings.prompt:
            self._changed()  # the picture of what was left the last time comes back by itself

    def save(self) -> None:
        """Keep the session on disk, written in a thread of its own: a disk may take its time."""
        encoded = self._session_now()
        QThreadPool.globalInstance().start(lambda: write_session(encoded))

    def _session_now(self) -> bytes:
        self._collect()
        self.session.geometry = self.window.geometry_text()
        self.session.theme = theme().choice
        self.session.more_open = self.window.options.more.isChecked()
        return msgspec.json.encode(self.session)

    def say(self, sentence: str) -> None:
        """Tell the person of something that went wrong."""
        self._refresh(self.state.tell(sentence))

    # -- the person --------------------------------------------------------------------------------------------------

    def generate(self) -> None:
        """Queue the full picture of the settings as they stand."""
        self._collect()
        request = self.settings.request()
        if not request.prompt:
            self._refresh(
                self.state.tell("Write in the prompt what you want to see, then press Generate.", error=False)
            )
            self.window.prompt.edit.setFocus()
            return
        self.live.forget()
        self._refresh(self.state.submitted(request))
        self.bridge.submit(request)
        if not self.settings.seed_locked:
            # the picture gets the seed that its draft was seen with; the next one gets another
            self.window.options.roll_quietly()
            self._collect()
        self._saving.start()

    def cancel(self) -> None:
        """Stop the running picture, else the next one that waits, else dismiss what is being said."""
        job = self.state.running or next((j for j in self.state.queue if j.state is State.WAITING), None)
        if job is not None:
            self._stop_job(job)
        elif self.state.notice is not None:
            self._refresh(self.state.dismiss())
        self.live.forget()

    def _changed(self) -> None:
        """A setting that changes the picture changed."""
        self._collect()
        self._saving.start()
        self._show_expected()
        self._greet()
        self.live.changed(self._draft_request())
        self._offering.start()

    def _word_used(self) -> None:
        """A word was chosen by its chip: no further key is expected."""
        self._collect()
        self.live.changed(self._draft_request(), at_once=True)

    def _example(self, text: str) -> None:
        self.window.prompt.edit.set_text(text)
        self.window.prompt.edit.setFocus()
        self._changed()
        if not self.settings.live:
            self.generate()

    def _live_toggled(self, on: bool) -> None:
        self.settings.live = self.live.enabled = on
        self.window.prompt.words.set_pictured(on)
        if on:
            self._changed()
        else:
            self.live.forget()
        self._saving.start()

    def _choose(self, result: Result) -> None:
        """Look at an older picture and take its settings."""
        self._refresh(self.state.show(result))
        self._take(result.request(), result)

    def _take_from_file(self, request: Request, result: Result | None) -> None:
        """A picture file was read: show it where it is one of ours, and take its settings."""
        if result is not None:
            self._refresh(self.state.show(result))
        self._take(request, result)

    def _remove(self, result: Result) -> None:
        self.bridge.forget_result(result.id)
        self._refresh(self.state.forget_result(result.id))

    def _remove_job(self, request_id: str) -> None:
        job = next((j for j in self.state.queue if j.request.id == request_id), None)
        if job is None:
            return
        if job.state in (State.WAITING, State.RUNNING):
            self._stop_job(job)
        else:
            self.bridge.remove_job(request_id)
            self._refresh(self.state.forget_job(request_id))

    def _stop_job(self, job: Job) -> None:
        self.bridge.cancel(job.request.id)
        if job.state is State.RUNNING:
            self._refresh(self.state.cancelling(job.request.id))
        else:
            self._refresh(self.state.forget_job(job.request.id))

    def _retry(self, request_id: str) -> None:
        self.bridge.retry(request_id)
        self._refresh(self.state.retried(request_id))

    def _act(self, action: str) -> None:
        """The button of a notice."""
        if action == "restart":
            self._start_again()
        elif action.startswith("retry:"):
            self._retry(action.removeprefix("retry:"))

    def _start_again(self) -> None:
        self.bridge.restart()
        self._refresh(self.state.dismiss())

    # -- models ------------------------------------------------------------------------------------------------------

    def _choose_model(self, name: str) -> None:
        if name == self.settings.model:
            return
        self.live.forget()
        self._use_model(name)
        self._changed()

    def _open_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self.window, "Open a model folder")
        if folder:
            self.add_model(Path(folder))

    def add_model(self, folder: Path) -> None:
        """Use a model folder in diffusers' format, and remember it."""
        try:
            name = self.models.add(folder)
        except ResidencyError as error:
            self._refresh(self.state.tell(str(error)))
            return
        self.window.options.show_models(self.models.names(), name)
        self._choose_model(name)

    def _use_model(self, name: str) -> None:
        self.settings.model = name
        try:
            self.models.use(name)
        except ResidencyError as error:
            self._refresh(self.state.tell(str(error)))
        self.window.options.show_defaults(self.models.defaults)
        self.window.prompt.set_vocabulary(Vocabulary(self.models.vocabulary))
        self.state.warming()
        self._refresh(self.state.model_changed())
        self.bridge.warm_up(name)
        self._offering.start()

    # -- drafts ------------------------------------------------------------------------------------------------------

    def _draft_request(self) -> Request:
        return self.settings.request(draft=True, draft_steps=self.models.defaults.draft_steps)

    def _submit_draft(self, request: Request, ahead: bool) -> None:
        if not ahead:
            self._refresh(self.state.submitted(request))
        self.bridge.submit(request)

    def _offer_words(self) -> None:
        """Let live mode make the pictures of the words that could stand at the caret."""
        edit = self.window.prompt.edit
        span = edit.word
        self.window.prompt.words.clear_images()
        if span is None or not self.settings.live:
            self.live.offer([])
            return
        text = edit.toPlainText()
        offers = []
        for word in edit.vocabulary.choices(span):
            start, new = edit.vocabulary.replaced(text, span, word)
            prompt = (text[:start] + new + text[span.end :]).strip()
            offers.append((word, msgspec.structs.replace(self._draft_request(), id=new_id(), prompt=prompt)))
        self.live.offer(offers)

    def _draft_ready(self, result: Result, pixels: bytes) -> None:
        self._refresh(self.state.show_draft(result, pixels))

    def _word_ready(self, word: str, result: Result, pixels: bytes) -> None:
        picture = Picture(result.id, Kind.DRAFT, result.width, result.height, pixels)
        self.window.prompt.words.set_image(word, to_image(picture))

    # -- the engine --------------------------------------------------------------------------------------------------

    def _on_events(self, events: list[Event]) -> None:
        topics: set[Topic] = set()
        for event in events:
            topics |= self.state.apply(event)
            self.live.engine_busy = self.state.busy
            if isinstance(event, EngineStopped):
                self.live.engine_lost()
            self.live.take(event)
        self._refresh(topics)
        if Topic.QUEUE in topics and not self.state.busy:
            self._offering.start()  # the engine has time for the words again

    def _refresh(self, topics: set[Topic]) -> None:
        """Show what changed, and only that."""
        present(self.window, self.state, topics)
        if Topic.ENGINE in topics:
            self._greet()
        if Topic.TIMES in topics:
            self._show_expected()

    # -- small parts -------------------------------------------------------------------------------------------------

    def _take(self, request: Request, result: Result | None) -> None:
        """Take over the settings of a picture; its model only where it is known here."""
        self.live.forget()
        self._collect()
        self.settings.take(request)
        model = result.model if result is not None else self.settings.model
        if model != self.settings.model and model in self.models.names():
            self._use_model(model)
            self.window.options.show_models(self.models.names(), model)
        elif model != self.settings.model:
            sentence = f"This picture was made with {model}, which is not among your models; open its folder to use it."
            self._refresh(self.state.tell(sentence, error=False))
        self.window.options.show_settings(self.settings)
        self.window.prompt.edit.set_text(self.settings.prompt)
        self._collect()
        self._show_expected()
        self._offering.start()
        self._saving.start()

    def _collect(self) -> None:
        self.settings.prompt = self.window.prompt.edit.toPlainText()
        self.window.options.values_into(self.settings)

    def _greet(self) -> None:
        self.window.canvas.welcome.greet(self.state.stage, written=bool(self.settings.prompt.strip()))

    def _show_expected(self) -> None:
        self.window.prompt.show_expected(self.state.times.expected(self.settings.request()))

    def _show_session(self) -> None:
        window = self.window
        window.restore_geometry_text(self.session.geometry)
        window.prompt.edit.set_text(self.settings.prompt)
        window.prompt.live.setChecked(self.settings.live)
        window.prompt.words.set_pictured(self.settings.live)
        window.options.show_settings(self.settings)
        window.options.show_more(self.session.more_open)
        self.live.enabled = self.settings.live
        self._greet()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            encoded = self._session_now()
            QThreadPool.globalInstance().waitForDone()
            write_session(encoded)
            self.live.forget()
            self._offering.stop()
            self._saving.stop()
            self.window.history.thumbnails.close()

    def _connect(self) -> None:
        window, bridge = self.window, self.bridge
        bridge.events.connect(self._on_events)
        bridge.jobs.connect(lambda jobs: self._refresh(self.state.jobs_loaded(jobs)))
        bridge.history.connect(lambda results: self._refresh(self.state.history_loaded(results)))
        bridge.trouble.connect(self.say)
        self.live.ready.connect(self._draft_ready)
        self.live.word_ready.connect(self._word_ready)
        window.closing.connect(self._close)
        window.file_dropped.connect(self.pictures.read)
        window.open_wanted.connect(self.pictures.ask_for_one)
        window.copy_wanted.connect(lambda: self.pictures.copy_shown(self.state.picture))
        self.pictures.read_from.connect(self._take_from_file)
        self.pictures.removed.connect(self._remove)
        for wanted in (window.generate_wanted, window.prompt.generate):
            wanted.connect(self.generate)
        for wanted in (window.cancel_wanted, window.prompt.cancel):
            wanted.connect(self.cancel)
        window.prompt.typed.connect(self._changed)
        window.prompt.word_changed.connect(self._offering.start)
        window.prompt.words.chosen.connect(lambda _: self._word_used())
        window.prompt.live_changed.connect(self._live_toggled)
        window.options.changed.connect(self._changed)
        window.options.said.connect(lambda text: self._refresh(self.state.tell(text, error=False)))
        window.options.model_chosen.connect(self._choose_model)
        window.options.folder_wanted.connect(self._open_folder)
        window.options.lock.toggled.connect(lambda _: self._saving.start())
        window.canvas.example_chosen.connect(self._example)
        window.canvas.view.opened.connect(lambda: self.pictures.open_shown(self.state.picture))
        window.canvas.view.menu_wanted.connect(lambda at: self.pictures.menu_of_shown(self.state.picture, at))
        window.history.chosen.connect(self._choose)
        window.history.opened.connect(self.pictures.open)
        window.history.removed.connect(self._remove)
        window.history.menu_wanted.connect(self.pictures.menu)
        window.queue.retried.connect(self._retry)
        window.queue.removed.connect(self._remove_job)
        window.notice.dismissed.connect(lambda: self._refresh(self.state.dismiss()))
        window.notice.acted.connect(self._act)
        window.header.start_again.connect(self._start_again)
        window.header.theme_chosen.connect(theme().choose)


def _timer(parent: QObject, milliseconds: int, action: Callable[[], None]) -> QTimer:
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.timeout.connect(action)
    return timer
