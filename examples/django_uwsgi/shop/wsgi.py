import os

from django.core.wsgi import get_wsgi_application

# The local server with its defaults. In production these come from the environment of the service.
os.environ.setdefault("HT_TOKEN", "dev-token")
os.environ.setdefault("HT_SERVER_URL", "http://127.0.0.1:8000")

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
application = get_wsgi_application()
