"""A Bokeh application, for `bokeh serve`: a button whose callback runs in Python, and a text that shows what it did."""

from bokeh.io import curdoc
from bokeh.layouts import column
from bokeh.models import Button, Div

pressed = Div(text="pressed 0", name="pressed")
button = Button(label="press", name="button")


def press():
    pressed.text = f"pressed {int(pressed.text.split()[1]) + 1}"


button.on_click(press)
curdoc().add_root(column(button, pressed))
