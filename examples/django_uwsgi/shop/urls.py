from django.urls import path

from shop import views

urlpatterns = [
    path("", views.home),
    path("buy", views.buy),
    path("subscribe", views.subscribe),
    path("ready", views.ready),
]
