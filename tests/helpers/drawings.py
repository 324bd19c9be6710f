"""What a drawn figure shows."""

from matplotlib.figure import Figure


def texts(made: Figure) -> set[str]:
    """Every text that the figure shows."""
    made.draw_without_rendering()
    found = {
        text.get_text() for text in made.findobj(lambda artist: hasattr(artist, "get_text") and artist.get_visible())
    }
    return found - {""}
