"""Brings the state into the panels: each topic to those that show it, and nothing else is touched."""

from __future__ import annotations

from app.shown import Kind, Topic
from app.state import StudioState
from app.window import StudioWindow


def present(window: StudioWindow, state: StudioState, topics: set[Topic]) -> None:
    """Show what changed."""
    if Topic.ENGINE in topics:
        window.header.show_engine(state)
    if Topic.HISTORY in topics:
        window.history.show_history(state)
    if Topic.CANVAS in topics:
        window.canvas.show_picture(state)
    elif Topic.PROGRESS in topics:
        window.canvas.show_work(state)
    if topics & {Topic.CANVAS, Topic.HISTORY}:
        full = state.picture is not None and state.picture.kind is Kind.FULL
        window.history.mark(state.picture.id if full and state.picture else "")
    if topics & {Topic.QUEUE, Topic.PROGRESS}:
        window.queue.show_queue(state)
        window.prompt.show_busy(state.queue.busy)
    if Topic.NOTICE in topics:
        window.notice.show_notice(state.notice)
