"""The window of Residency: Qt, and nothing that imports torch."""

from app.pinning import pin_singletons

pin_singletons()
