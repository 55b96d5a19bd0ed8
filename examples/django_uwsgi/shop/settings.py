"""What Django needs to know of a shop without a database. HypoTest needs nothing here: the middleware is the shop's."""

import os

ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "only-for-trying-it-out")
MIDDLEWARE = ["django.middleware.common.CommonMiddleware", "shop.visitors.remember"]
TIME_ZONE = "UTC"
