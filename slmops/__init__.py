"""Small language models on fleets of small devices.

The journey, in the order a model travels:

    profile    what a device can bear
    build      make a model small enough
    train      make a model that is smaller, or knows its work better
    artifact   wrap it, name it, sign it
    delta      what two files of one model differ by
    registry   keep every version
    fleet      who is out there
    rollout    move them, a few at a time
    device     what lives on the box
    daemon     what answers on the box
    telemetry  what they tell us
    cli        the front door
"""

__version__ = "0.1.0"
