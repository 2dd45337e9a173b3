"""`hindsight bench`: load on a server, and what it did with it.

    command   the command line                  asked      its options, checked
    target    which server, and may it be loaded
    photos    what is sent                      requests   the bytes of it
    load      when it is sent                   wire       one HTTP/1.1 connection
    samples   what came back, and its summary   session    several loads, kept when interrupted
    presets   the scenarios                     checks     limits and the exit status
    report    tables and JSON                   charts     pictures

It needs nothing but the light core: the client is httptools on asyncio, because a load generator that costs
as much as the server it measures would measure itself.
"""
