"""Every host that forks, threads or kills: the real one, and the same proof for each.

work       what an application does for one request or task, and what it tells of it
wsgi, asgi the application, for hosts that serve HTTP
multi      a script with children; script, containers: scripts for hosts without HTTP
doors      how to ask a running host, and what it answers
load       asks all the time, from several threads, and remembers every answer
host       one host in one mode: how it is started, asked, stopped
gunicorn, uwsgi, celery, event_loops: how these are
proof      what must hold in each of them, whatever happens
trials     what happens: kills, reloads, workers that hang
rows       what a proof measured, kept
table      writes docs/hosts.md's table from what the proofs measured
test_*     the modes, one file a host
"""
