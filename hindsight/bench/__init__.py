"""`hindsight bench`: load on a server, and what it did with it.

    wire       one HTTP/1.1 connection       target     which server, and may it be loaded
    photos     what is sent                  requests   the bytes of it
    load       when it is sent               samples    what came back, and its summary
    presets    the scenarios                 report     tables, JSON, checks       charts   pictures
    command    the command line

It needs nothing but the light core: the client is httptools on asyncio, because a load generator that costs
as much as the server it measures would measure itself.
"""
