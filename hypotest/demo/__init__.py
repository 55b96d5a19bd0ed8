"""`hypotest demo` (extra `demo`): the whole product at work on one machine, in half a minute.

    run           the story, and its exit status
    processes     the server and gunicorn, as processes that never outlive the demo
    workers       asks each of gunicorn's workers in person
    visitors      2,000 visitors, and what the application acknowledged to them
    ledger        what was acknowledged against what the server has
    app           the application; examples/flask_gunicorn/app.py is a link to it
    gunicorn_conf how gunicorn runs it

The application stands here and not in examples/, so that the demo runs from an installed package as it does from a
clone; the link shows it where a reader looks for it, and there is one copy.
"""
