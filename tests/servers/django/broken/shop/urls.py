from django.urls import path

from shop import views

urlpatterns = [
    path("", views.home),
    path("health", views.health),
    path("meet", views.meet),
    path("concurrency", views.concurrency),
]
