"""The studio: what happens when the person or the engine does something. It connects state, panels and bridge."""

from __future__ import annotations

import msgspec
from PySide6.QtCore import QObject, Qt, QThreadPool, QTimer

from app.bridge import EngineBridge
from app.choice import ModelChoice
from app.drafting import Drafting
from app.foresight import Foresight
from app.models import Models, is_model
from app.pictures import PictureActions
from app.preference import Preference
from app.present import present
from app.queueing import JobActions
from app.settings import Session, write_session
from app.shelf import Page
from app.shown import Notice, Topic
from app.starting import Starting
from app.state import StudioState
from app.theme.theme import theme
from app.vocabulary import Vocabulary
from app.window import StudioWindow
from core.messages import Event, Finished, Request, Result

_SAVE_MS = 1000


class Studio(QObject):
    """Connects the window, the state, drafts, models and the bridge to the engine."""

    def __init__(self, window: StudioWindow, bridge: EngineBridge, session: Session, models: Models) -> None:
        super().__init__(window)
        self.window, self.bridge, self.session, self.models = window, bridge, session, models
        self.settings = session.settings
        self.state = StudioState()
        self._show_session()
        self.drafting = Drafting(window.prompt, bridge, session, models, self)
        self.choice = ModelChoice(window, self.settings, models, self)
        self.preference = Preference(window.precision, self.settings, self)
        self.foresight = Foresight(window, self.state, self.settings, models, self)
        self.jobs = JobActions(window, bridge, self.state, self._refresh, self)
        self.pictures = PictureActions(window, self.say)
        self.starting = Starting(window, self.settings, models, self.say)
        self.starting.show()
        self._closed = False
        self._about_model: Notice | None = None
        self._saving = QTimer(self)
        self._saving.setSingleShot(True)
        self._saving.setInterval(_SAVE_MS)
        self._saving.timeout.connect(self.save)
        self._connect()

    def begin(self) -> None:
        """After the first frame: start the engine and read what was kept."""
        self.bridge.start()
        self.choice.begin()
        self.foresight.begin()
        if self.settings.prompt:
            self._changed()  # the picture of what was left the last time comes back by itself

    def save(self) -> None:
        """Keep the session on disk, written in a thread of its own: a disk may take its time."""
        encoded = self._session_now()
        QThreadPool.globalInstance().start(lambda: write_session(encoded))

    def _session_now(self) -> bytes:
        self._collect()
        self.drafting.keep()
        self.session.geometry = self.window.geometry_text()
        self.session.theme = theme().choice
        self.session.more_open = self.window.options.more.isChecked()
        self.session.chart_open = self.window.chart_open
        self.session.why_open = self.window.precision.why.isChecked()
        return msgspec.json.encode(self.session)

    def say(self, sentence: str) -> None:
        """Tell the person of something that went wrong."""
        self._tell(sentence)

    # -- the person --------------------------------------------------------------------------------------------------

    def generate(self) -> None:
        """Queue the full picture of the settings as they stand."""
        if self.choice.looking:
            # settings came back a moment ago; the picture waits for the model that they belong to
            self.choice.settled.connect(self.generate, Qt.ConnectionType.SingleShotConnection)
            return
        self.window.options.commit()
        self._collect()
        request = self.settings.request()
        if not request.prompt:
            self._tell("Write in the prompt what you want to see, then press Generate.", error=False)
            self.window.prompt.edit.setFocus()
            return
        self.drafting.forget()
        self._refresh(self.state.submitted(request))
        self.bridge.submit(request)
        if not self.settings.seed_locked:
            # the picture gets the seed that its draft was seen with; the next one gets another
            self.window.options.roll_quietly()
            self._collect()
        self._saving.start()

    def cancel(self) -> None:
        """Stop the running picture, else the next one that waits, else dismiss what is being said."""
        if (job := self.state.queue.next) is not None:
            self.jobs.stop(job)
        elif self.state.notice is not None:
            self._refresh(self.state.dismiss())
        self.drafting.forget()

    def _changed(self) -> None:
        """A setting that changes the picture changed."""
        self._collect()
        self._saving.start()
        self._show_expected()
        self._greet()
        self.foresight.changed()
        self.drafting.changed()

    def _word_used(self) -> None:
        """A word was chosen by its chip: no further key is expected."""
        self._collect()
        self.drafting.changed(at_once=True)

    def _draft_now(self) -> None:
        self.window.options.commit()
        self._collect()
        self.drafting.now()

    def _example(self, text: str) -> None:
        self.window.prompt.edit.set_text(text)
        self.window.prompt.edit.setFocus()
        self._changed()
        if not self.drafting.on:
            self.generate()

    def _drafts_switched(self, on: bool) -> None:
        self._collect()
        self.drafting.switch(on)
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

    # -- the history -------------------------------------------------------------------------------------------------

    def _search(self, text: str) -> None:
        self._refresh(self.state.search(text))
        if query := self.state.shelves.query:
            self.bridge.load_page(query, 0)

    def _load_more(self) -> None:
        """The end of the history comes into sight."""
        if (offset := self.state.shelves.ask()) is not None:
            self.bridge.load_page(self.state.shelves.query, offset)

    def _page_loaded(self, page: Page) -> None:
        self._refresh(self.state.page_loaded(page))

    def _remove(self, result: Result) -> None:
        self.bridge.forget_result(result.id)
        self._refresh(self.state.forget_result(result.id))

    # -- models ------------------------------------------------------------------------------------------------------

    def _model_used(self, name: str) -> None:
        self.window.prompt.set_vocabulary(Vocabulary(self.models.vocabulary))
        self.starting.show_size()
        self.state.warming()
        self._refresh(self.state.model_changed())
        self.bridge.warm_up(name, self.settings.how)
        self.drafting.taken_over()

    def _model_chosen(self) -> None:
        self.drafting.forget()
        self._changed()

    def _tell_of_model(self, sentence: str, error: bool) -> None:
        self._tell(sentence, error=error)
        self._about_model = self.state.notice

    # -- the engine --------------------------------------------------------------------------------------------------

    def _on_events(self, events: list[Event]) -> None:
        topics: set[Topic] = set()
        for event in events:
            topics |= self.state.apply(event)
            self.drafting.take(event, busy=self.state.queue.busy)
        self._refresh(topics)
        if Topic.QUEUE in topics and not self.state.queue.busy:
            self.drafting.offer_soon()  # the engine has time for the words again
        made = any(isinstance(event, Finished) and not event.result.draft for event in events)
        if made and self.state.shelves.query:
            self.bridge.load_page(self.state.shelves.query, 0)  # what is searched for may be among it

    def _refresh(self, topics: set[Topic]) -> None:
        """Show what changed, and only that."""
        present(self.window, self.state, topics)
        if Topic.ENGINE in topics:
            self._greet()
        if Topic.TIMES in topics:
            self._show_expected()
        if topics & {Topic.MEMORY, Topic.COMPONENTS, Topic.ENGINE}:
            self.foresight.changed()

    # -- small parts -------------------------------------------------------------------------------------------------

    def _tell(self, sentence: str, *, error: bool = True) -> None:
        self._refresh(self.state.tell(sentence, error=error))

    def _take(self, request: Request, result: Result | None) -> None:
        """Take over the settings of a picture, and its model where that is known here."""
        self.drafting.forget()
        self._collect()
        self.settings.take(request)
        if self._about_model is not None and self.state.notice is self._about_model:
            self._refresh(self.state.dismiss())  # it was about another picture
        self.window.options.show_settings(self.settings)
        self.preference.show()
        self.window.prompt.edit.set_text(self.settings.prompt)
        self._take_start(request)
        self._collect()
        self._show_expected()
        self.foresight.changed()
        self.drafting.taken_over()
        self._saving.start()
        if result is not None:
            self.choice.bring_back(result)

    def _take_start(self, request: Request) -> None:
        """Take over what a picture started from, where that is still there."""
        self.starting.show()
        if request.init is not None and self.settings.init is None:
            name = request.init.file.replace("\\", "/").rsplit("/", 1)[-1]
            self._tell(
                f"It was made from {name}, which is not here; choose that picture to make it again.", error=False
            )

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
        window.options.show_settings(self.settings)
        window.options.show_more(self.session.more_open)
        window.chart_open = self.session.chart_open
        window.precision.why.setChecked(self.session.why_open)
        self._greet()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            encoded = self._session_now()
            QThreadPool.globalInstance().waitForDone()
            write_session(encoded)
            self.drafting.close()
            self.choice.close()
            self.foresight.close()
            self._saving.stop()
            self.window.history.thumbnails.close()

    def _connect(self) -> None:
        window, bridge = self.window, self.bridge
        bridge.events.connect(self._on_events)
        bridge.jobs.connect(lambda jobs: self._refresh(self.state.jobs_loaded(jobs)))
        bridge.page.connect(self._page_loaded)
        bridge.trouble.connect(self.say)
        drafting, choice = self.drafting, self.choice
        drafting.submitted.connect(lambda request, seconds: self._refresh(self.state.submitted(request, seconds)))
        drafting.ready.connect(lambda result, pixels: self._refresh(self.state.show_draft(result, pixels)))
        choice.used.connect(self._model_used)
        choice.chosen.connect(self._model_chosen)
        choice.said.connect(self._tell_of_model)
        window.closing.connect(self._close)
        window.file_dropped.connect(lambda path: choice.add(path) if is_model(path) else self.pictures.read(path))
        window.open_wanted.connect(self.pictures.ask_for_one)
        window.copy_wanted.connect(lambda: self.pictures.copy_shown(self.state.picture))
        self.pictures.read_from.connect(self._take_from_file)
        self.pictures.removed.connect(self._remove)
        self.pictures.start_wanted.connect(self.starting.start_from)
        self.starting.changed.connect(self._changed)
        for wanted in (window.generate_wanted, window.prompt.generate):
            wanted.connect(self.generate)
        for wanted in (window.cancel_wanted, window.prompt.cancel):
            wanted.connect(self.cancel)
        window.prompt.typed.connect(self._changed)
        window.prompt.word_changed.connect(drafting.offer_soon)
        window.prompt.words.chosen.connect(lambda _: self._word_used())
        window.prompt.drafts.switched.connect(self._drafts_switched)
        window.prompt.drafts.wanted.connect(self._draft_now)
        window.options.changed.connect(self._changed)
        for settled in (self._saving.start, self.foresight.changed):
            self.preference.changed.connect(settled)
        window.options.said.connect(lambda text: self._tell(text, error=False))
        window.options.lock.toggled.connect(lambda _: self._saving.start())
        window.canvas.example_chosen.connect(self._example)
        window.canvas.view.opened.connect(lambda: self.pictures.open_shown(self.state.picture))
        window.canvas.view.menu_wanted.connect(lambda at: self.pictures.menu_of_shown(self.state.picture, at))
        window.history.chosen.connect(self._choose)
        window.history.opened.connect(self.pictures.open)
        window.history.removed.connect(self._remove)
        window.history.menu_wanted.connect(self.pictures.menu)
        window.history.searched.connect(self._search)
        window.history.more_wanted.connect(self._load_more)
        window.notice.dismissed.connect(lambda: self._refresh(self.state.dismiss()))
        window.header.theme_chosen.connect(theme().choose)
