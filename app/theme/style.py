"""From a palette to what Qt draws: the QPalette and the one style sheet."""

from __future__ import annotations

from PySide6.QtGui import QColor, QFontInfo, QPalette
from PySide6.QtWidgets import QApplication

from app.theme.colours import Colours

# The system's own text size is respected between these; outside them the layout would no longer hold.
SMALLEST_TEXT, LARGEST_TEXT = 12, 17


def text_size(application: QApplication) -> int:
    """The size of ordinary text in device-independent pixels, from the system's font."""
    return max(SMALLEST_TEXT, min(LARGEST_TEXT, QFontInfo(application.font()).pixelSize()))


def palette(colours: Colours) -> QPalette:
    """The QPalette of a theme, for what no style sheet reaches: dialogs, tooltips, selections."""
    result = QPalette()
    role = QPalette.ColorRole
    for key, value in {
        role.Window: colours.window,
        role.Base: colours.field,
        role.AlternateBase: colours.panel,
        role.Button: colours.raised,
        role.ToolTipBase: colours.raised,
        role.ToolTipText: colours.text,
        role.Text: colours.text,
        role.WindowText: colours.text,
        role.ButtonText: colours.text,
        role.BrightText: colours.danger,
        role.Highlight: colours.accent,
        role.HighlightedText: colours.on_accent,
        role.Link: colours.accent_text,
        role.PlaceholderText: colours.muted,
        role.Mid: colours.line,
        role.Dark: colours.line,
        role.Light: colours.raised_hover,
    }.items():
        result.setColor(key, QColor(value))
    for key in (role.Text, role.WindowText, role.ButtonText):
        result.setColor(QPalette.ColorGroup.Disabled, key, QColor(colours.muted))
    return result


def sheet(colours: Colours, size: int) -> str:
    """The style sheet of a theme; `size` is ordinary text in device-independent pixels, all others follow from it."""
    c = colours
    small, large = size - 1, size + 6
    return f"""
    * {{ font-size: {size}px; }}
    QWidget {{ color: {c.text}; }}
    QPlainTextEdit, QLineEdit {{ placeholder-text-color: {c.muted}; }}
    QMainWindow, QWidget#root {{ background: {c.window}; }}
    QFrame[role="panel"] {{ background: {c.panel}; border-radius: 12px; }}
    QLabel {{ background: transparent; }}
    QLabel[role="wordmark"] {{ font-size: {size + 4}px; font-weight: 700; }}
    QLabel[role="title"] {{ font-weight: 600; }}
    QLabel[role="muted"] {{ color: {c.muted}; }}
    QLabel[role="small"] {{ color: {c.muted}; font-size: {small}px; }}
    QLabel[role="hero"] {{ font-size: {size + 11}px; font-weight: 600; }}
    QLabel[role="badge"] {{
        color: {c.accent_text}; background: {c.accent_soft}; border-radius: 6px; padding: 2px 8px;
        font-size: {small}px; font-weight: 600;
    }}

    QPlainTextEdit#prompt {{
        background: {c.field}; border: 1px solid {c.line}; border-radius: 10px; padding: 6px 8px; font-size: {large}px;
        selection-background-color: {c.accent}; selection-color: {c.on_accent};
    }}
    QPlainTextEdit#prompt:focus {{ border: 2px solid {c.accent}; padding: 5px 7px; }}

    QLineEdit, QAbstractSpinBox, QComboBox, QPlainTextEdit#negative {{
        background: {c.field}; border: 1px solid {c.line}; border-radius: 8px; padding: 0 8px;
        selection-background-color: {c.accent}; selection-color: {c.on_accent};
    }}
    QPlainTextEdit#negative {{ padding: 3px 4px; }}
    QAbstractSpinBox::up-button, QAbstractSpinBox::down-button {{ width: 0; border: none; }}
    QAbstractSpinBox QLineEdit {{ border: none; background: transparent; padding: 0; }}
    QLineEdit:hover, QAbstractSpinBox:hover, QComboBox:hover {{ border-color: {c.muted}; }}
    QLineEdit:focus, QAbstractSpinBox:focus, QComboBox:focus, QPlainTextEdit#negative:focus {{
        border: 2px solid {c.accent}; padding: 0 7px;
    }}
    QAbstractSpinBox {{ padding: 0; }}
    QAbstractSpinBox:focus {{ padding: 0; }}
    QAbstractSpinBox QLineEdit:focus {{ border: none; padding: 0; }}
    QPlainTextEdit#negative:focus {{ padding: 2px 3px; }}
    QAbstractSpinBox:disabled, QComboBox:disabled {{ color: {c.muted}; }}
    QComboBox::drop-down {{ border: none; width: 26px; }}
    QComboBox::down-arrow {{ image: none; }}
    QComboBox QLineEdit, QComboBox QLineEdit:focus {{ border: none; background: transparent; padding: 0; }}
    QComboBox QAbstractItemView {{
        background: {c.panel}; border: 1px solid {c.line}; padding: 4px; outline: none;
        selection-background-color: {c.accent_soft}; selection-color: {c.text};
    }}

    QPushButton, QToolButton {{
        background: {c.raised}; border: 1px solid transparent; border-radius: 8px; padding: 0 12px; min-height: 30px;
    }}
    QPushButton:hover, QToolButton:hover {{ background: {c.raised_hover}; }}
    QPushButton:pressed, QToolButton:pressed {{ background: {c.line}; }}
    QPushButton:focus, QToolButton:focus {{ border: 2px solid {c.accent}; padding: 0 11px; min-height: 28px; }}
    QPushButton:disabled {{ color: {c.muted}; }}
    QToolButton, QToolButton:focus {{ padding: 0; min-height: 0; }}
    QToolButton:checked {{ background: {c.accent_soft}; }}
    QToolButton::menu-indicator, QPushButton::menu-indicator {{ image: none; width: 0; }}
    QToolButton[role="quiet"], QPushButton[role="quiet"] {{ background: transparent; color: {c.muted}; }}
    QToolButton[role="quiet"]:hover, QPushButton[role="quiet"]:hover {{ background: {c.raised}; color: {c.text}; }}
    QPushButton[role="quiet"] {{ text-align: left; padding: 0 4px 0 0; }}
    QPushButton[role="quiet"]:focus {{ padding: 0 2px 0 0; }}
    QPushButton[role="bare"] {{ background: {c.panel}; }}
    QPushButton[role="bare"]:hover {{ background: {c.raised_hover}; }}

    QPushButton[role="quiet"][heading="true"] {{ color: {c.text}; font-weight: 600; }}
    QPushButton[role="link"] {{ background: transparent; color: {c.accent_text}; padding: 0 4px; }}
    QPushButton[role="link"]:hover {{ background: {c.raised}; }}
    QPushButton[role="link"]:focus {{ padding: 0 2px; }}

    QSlider {{ background: transparent; min-height: 22px; }}
    QSlider::groove:horizontal {{ background: {c.raised_hover}; height: 4px; border-radius: 2px; }}
    QSlider::handle:horizontal {{
        background: {c.accent}; width: 14px; height: 14px; margin: -5px 0; border-radius: 7px;
    }}
    QSlider::handle:horizontal:hover {{ background: {c.accent_hover}; }}
    QSlider::handle:horizontal:focus {{
        border: 2px solid {c.text}; width: 12px; height: 12px; margin: -6px 0; border-radius: 8px;
    }}

    QPushButton[role="main"] {{
        background: {c.accent}; color: {c.on_accent}; border-radius: 10px; min-height: 44px;
        font-size: {size + 2}px; font-weight: 600;
    }}
    QPushButton[role="main"]:hover {{ background: {c.accent_hover}; }}
    QPushButton[role="main"]:focus {{ border: 2px solid {c.text}; min-height: 42px; }}
    QPushButton[role="stop"] {{ border-radius: 10px; min-height: 44px; padding: 0 14px; }}
    QPushButton[role="stop"]:focus {{ min-height: 42px; padding: 0 13px; }}

    QPushButton[role="example"] {{
        background: {c.raised}; border-radius: 17px; padding: 0 16px; min-height: 34px; text-align: center;
    }}
    QPushButton[role="example"]:hover {{ background: {c.accent_soft}; }}
    QPushButton[role="example"]:focus {{ min-height: 32px; padding: 0 15px; }}

    QFrame[role="notice"] {{ background: {c.accent_soft}; border-radius: 10px; }}
    QFrame[role="notice"][level="error"] {{ background: {c.danger_soft}; }}
    QFrame[role="notice"] QPushButton {{ background: {c.panel}; }}

    QFrame[role="rule"] {{ background: {c.line}; max-height: 1px; min-height: 1px; border: none; }}
    QScrollArea, QWidget#scrolled, QWidget#side {{ background: transparent; border: none; }}
    QScrollBar:vertical {{ background: transparent; width: 14px; margin: 0; }}
    QScrollBar:horizontal {{ background: transparent; height: 10px; margin: 0; }}
    QScrollBar::handle {{
        background: {c.raised_hover}; border-radius: 4px; margin: 1px; min-width: 32px; min-height: 32px;
    }}
    QScrollBar::handle:vertical {{ margin-left: 5px; }}
    QScrollBar::handle:hover {{ background: {c.muted}; }}
    QScrollBar::add-line, QScrollBar::sub-line, QScrollBar::add-page, QScrollBar::sub-page {{
        background: transparent; width: 0; height: 0;
    }}
    QListView#history {{ background: transparent; border: none; outline: none; }}

    QMenu {{ background: {c.panel}; border: 1px solid {c.line}; border-radius: 8px; padding: 5px; }}
    QMenu::item {{ padding: 6px 22px 6px 12px; border-radius: 6px; }}
    QMenu::item:selected {{ background: {c.accent_soft}; color: {c.text}; }}
    QMenu::item:disabled {{ color: {c.muted}; }}
    QMenu::separator {{ height: 1px; background: {c.line}; margin: 5px 8px; }}
    QToolTip {{ background: {c.raised}; color: {c.text}; border: 1px solid {c.line}; padding: 4px 6px; }}
    """
