"""Addresses of signing up and in, and of one's own account; most of them allauth's."""

from django.urls import include, path

from subscriptions.users import views

urlpatterns = [
    # Before allauth's: the newcomer's first choice.
    path("signup/phone/", views.PhoneSignup.as_view(), name="account_signup_by_phone"),
    path("", views.overview, name="account_overview"),
    path("everywhere/", views.sign_out_everywhere, name="account_sign_out_everywhere"),
    path("", include("allauth.urls")),
]
