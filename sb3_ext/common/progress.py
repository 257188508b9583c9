"""Progress bars that are closed when training ends with an error."""

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EventCallback, ProgressBarCallback


def close_progress_bars(callback: BaseCallback | None) -> None:
    """
    Close the bars of SB3's progress bar callbacks, also of those inside other callbacks.

    SB3 closes them only when training ends by itself. A bar that is still open at the end of Python prints an error.
    """
    if isinstance(callback, ProgressBarCallback):
        bar = getattr(callback, "pbar", None)
        if bar is not None:
            bar.close()
    elif isinstance(callback, CallbackList):
        for child in callback.callbacks:
            close_progress_bars(child)
    elif isinstance(callback, EventCallback):
        close_progress_bars(callback.callback)
