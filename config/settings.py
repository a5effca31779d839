"""Every setting. What differs between machines is an environment variable, read here only."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import environ

from config import embedded

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()

DEBUG = env.bool("DEBUG", default=False)
DATA = (BASE_DIR / env.str("DATA", default=".data")).resolve()

# What documents are written in, as set-up fetched it, and what pages are made of, as it built it.
FONTS = BASE_DIR / "node_modules" / "@expo-google-fonts"
BUILT = BASE_DIR / ".built"

# Unset, the platform brings its own PostgreSQL and Valkey, kept under DATA.
if "DATABASE_URL" in env and "BROKER_URL" in env:
    _services = None
else:
    _services = embedded.attach(DATA)
DATABASE_URL = env.str("DATABASE_URL", default=_services.database_url if _services else "")
BROKER_URL = env.str("BROKER_URL", default=_services.broker_url if _services else "")

# How people's browsers, and providers that send them back, reach this platform.
PUBLIC_URL = env.str("PUBLIC_URL", default="http://127.0.0.1:8000").rstrip("/")

SECRET_KEY = env.str("SECRET_KEY", default="") or embedded.secret_key(DATA)
# Earlier ones, while what they have sealed is sealed again (`manage.py providers reseal`).
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])

# Where TLS ends in front: cookies and pages for TLS only, and the proxy's word for it.
HTTPS = env.bool("HTTPS", default=False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = LANGUAGE_COOKIE_SECURE = HTTPS
SECURE_HSTS_SECONDS = 365 * 86400 if HTTPS else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None

INSTALLED_APPS = [
    # Its templates come before those of Django's admin; the site is our own.
    "unfold.apps.BasicAppConfig",
    "django.contrib.admin.apps.SimpleAdminConfig",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "djmoney",
    "django_htmx",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "subscriptions",
    "metering",
    "billing",
    "billing.ways.sandbox",
    "config",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    # Those of config.pages leave the API's requests alone.
    "config.pages.policies",
    "config.pages.Sessions",
    "config.pages.Locale",
    "django.middleware.common.CommonMiddleware",
    "config.pages.Csrf",
    "config.pages.Authentication",
    "config.pages.Messages",
    "config.pages.Frames",
    "config.pages.UserSessions",
    "config.pages.Htmx",
    "config.pages.exceptions",
    # Asked for by this name; to the API it costs some microseconds.
    "allauth.account.middleware.AccountMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
APPEND_SLASH = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "config.pages.look",
            ]
        },
    }
]

_database = environ.Env.db_url_config(DATABASE_URL, engine="django.db.backends.postgresql")
DATABASES = {
    "default": {
        **_database,
        # A socket's folder stands percent-encoded where a URL has its host.
        "HOST": unquote(_database["HOST"]),
        # One connection a thread, kept: opening one costs more than a charge.
        "CONN_MAX_AGE": None,
        # A restarted server costs nobody a request: a dead connection is noticed before its use.
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            "connect_timeout": 5,
            "application_name": "token-billing",
            # Prepare what a connection has run five times; the charge's statements are few.
            "prepare_threshold": 5,
            # And plan it once: planning for each batch's own values costs more than it saves.
            "options": "-c plan_cache_mode=force_generic_plan",
        },
    }
}

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "zh-hans"
LANGUAGES = [("zh-hans", "简体中文"), ("en", "English")]
LOCALE_PATHS = [BUILT / "locale"]
USE_I18N = True
# Instants are stored and compared in UTC; an operator's zone is applied in subscriptions.periods.
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "/static/"
STATIC_ROOT = DATA / "static"
STATICFILES_DIRS = [BUILT / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["subscriptions.api.auth.OperatorKey"],
    "DEFAULT_PERMISSION_CLASSES": ["subscriptions.api.auth.HasKey"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "subscriptions.api.problems.exception_handler",
    "COERCE_DECIMAL_TO_STRING": True,
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Token billing",
    "DESCRIPTION": "Sell token plans, meter usage, draw prepaid buckets, invoice the month.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    # What only answers hold is not asked for in requests, and text may not be empty.
    "COMPONENT_SPLIT_REQUEST": True,
    "ENFORCE_NON_BLANK_FIELDS": True,
    "ENUM_NAME_OVERRIDES": {
        "SubscriberKindEnum": "subscriptions.models.Subscriber.Kind",
        "BucketKindEnum": "subscriptions.models.Bucket.Kind",
    },
}

CURRENCIES = ("CNY", "USD", "HKD", "EUR")
DEFAULT_CURRENCY = "CNY"

# Who signs in. Everything about a user is in subscriptions/users, but for what allauth does.
AUTH_USER_MODEL = "subscriptions.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = ACCOUNT_LOGOUT_REDIRECT_URL = "/"
SESSION_COOKIE_AGE = 14 * 86400
ACCOUNT_ADAPTER = "subscriptions.users.adapter.AccountAdapter"
ACCOUNT_FORMS = {
    "login": "subscriptions.users.forms.PasswordForm",
    "signup": "subscriptions.users.forms.EmailSignupForm",
}
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_LOGIN_METHODS = {"email", "phone"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "phone"]
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
ACCOUNT_LOGIN_BY_CODE_ENABLED = True
ACCOUNT_PASSWORD_RESET_BY_CODE_ENABLED = True
ACCOUNT_CHANGE_EMAIL = True
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_SESSION_REMEMBER = True
MFA_ADAPTER = "subscriptions.users.adapter.FactorsAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_FORMS = {"add_webauthn": "subscriptions.users.forms.PasskeyForm"}
# Browsers offer passkeys to TLS and to this machine only, whatever is allowed here.
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = not HTTPS
# How many proxies of ours add to X-Forwarded-For: whose address the limits of sign-in count.
ALLAUTH_TRUSTED_PROXY_COUNT = env.int("TRUSTED_PROXIES", default=0)

# The look of the console; its pages, and who may open them, are in the rooms' `console` packages.
UNFOLD = {
    "SITE_TITLE": "subscriptions.console.site.operator_name",
    "SITE_HEADER": "subscriptions.console.site.operator_name",
    "SITE_SUBHEADER": "subscriptions.console.site.role_name",
    "SITE_ICON": "subscriptions.console.site.mark",
    "SITE_URL": None,
    "SHOW_LANGUAGES": True,
    "LANGUAGES": {"action": "/language"},
    "ACCOUNT": {"navigation": "subscriptions.console.site.account_links"},
    "SIDEBAR": {"navigation": "subscriptions.console.site.navigation"},
}

# Which operator's portal a host is; any other host is that of PORTAL_OPERATOR, or of the only one.
PORTAL_HOSTS = env.dict("PORTAL_HOSTS", default={})
PORTAL_OPERATOR = env.str("PORTAL_OPERATOR", default="")

# Unset, messages go to the log.
vars().update(env.email_url("EMAIL_URL", default="consolemail://"))
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.str("EMAIL_FROM", default="noreply@localhost")

DATA_UPLOAD_MAX_MEMORY_SIZE = 16 * 1024 * 1024
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "config.pages.stale_form"
# No script of ours reads it: htmx sends what the page says.
CSRF_COOKIE_HTTPONLY = True
LANGUAGE_COOKIE_AGE = 365 * 86400
SILENCED_SYSTEM_CHECKS: list[str] = []

# Rows are the queue, a task is only the bell: losing one loses no work, a sweep rings again.
CELERY_BROKER_URL = BROKER_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 600}
CELERY_TASK_TIME_LIMIT = 600
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULE = {
    # A bell that nobody answered in time is not worth answering later: the next one rings.
    "fold-usage": {
        "task": "metering.tasks.fold_usage",
        "schedule": 2.0,
        "options": {"expires": 2.0},
    },
    "compare-windows": {
        "task": "metering.tasks.compare_windows",
        "schedule": 20.0,
        "options": {"expires": 20.0},
    },
    "rerate-waiting": {
        "task": "metering.tasks.rerate_waiting",
        "schedule": 10.0,
        "options": {"expires": 10.0},
    },
    "open-due-periods": {
        "task": "billing.tasks.open_due_periods",
        "schedule": 30.0,
        "options": {"expires": 30.0},
    },
    "close-due-periods": {
        "task": "billing.tasks.close_due_periods",
        "schedule": 30.0,
        "options": {"expires": 30.0},
    },
    # Does its work once in each operator's month.
    "make-last-bills": {
        "task": "billing.tasks.make_last_bills",
        "schedule": 600.0,
        "options": {"expires": 600.0},
    },
    # Does its work once in each operator's day.
    "earn-deferred": {
        "task": "billing.tasks.earn_deferred",
        "schedule": 300.0,
        "options": {"expires": 300.0},
    },
    "make-documents": {
        "task": "billing.tasks.make_documents",
        "schedule": 30.0,
        "options": {"expires": 30.0},
    },
    "run-dunning": {
        "task": "billing.tasks.run_dunning",
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    "expire-reservations": {
        "task": "billing.tasks.expire_reservations",
        "schedule": 5.0,
        "options": {"expires": 5.0},
    },
    "sell-due-prices": {
        "task": "billing.tasks.sell_due_prices",
        "schedule": 15.0,
        "options": {"expires": 15.0},
    },
    "expire-orders": {
        "task": "billing.tasks.expire_orders",
        "schedule": 15.0,
        "options": {"expires": 15.0},
    },
    "end-wallet-times": {
        "task": "billing.tasks.end_wallet_times",
        "schedule": 30.0,
        "options": {"expires": 30.0},
    },
    "fill-wallets": {
        "task": "billing.tasks.fill_wallets",
        "schedule": 15.0,
        "options": {"expires": 15.0},
    },
    "order-periods": {
        "task": "billing.tasks.order_periods",
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    "collect-due": {
        "task": "billing.tasks.collect_due",
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    "finish-payments": {
        "task": "billing.tasks.finish_payments",
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    "make-vouchers": {
        "task": "billing.tasks.make_vouchers",
        "schedule": 10.0,
        "options": {"expires": 10.0},
    },
    "expire-vouchers": {
        "task": "billing.tasks.expire_vouchers",
        "schedule": 300.0,
        "options": {"expires": 300.0},
    },
    "move-files": {
        "task": "billing.tasks.move_files",
        "schedule": 10.0,
        "options": {"expires": 10.0},
    },
    "look-for-anomalies": {
        "task": "billing.tasks.look_for_anomalies",
        "schedule": 300.0,
        "options": {"expires": 300.0},
    },
    "make-personal-data": {
        "task": "billing.tasks.make_personal_data",
        "schedule": 10.0,
        "options": {"expires": 10.0},
    },
    "forget-files": {"task": "billing.tasks.forget_files", "schedule": 3600.0},
    "recall-payments": {
        "task": "billing.tasks.recall_payments",
        "schedule": 15.0,
        "options": {"expires": 15.0},
    },
    "ask-about-methods": {
        "task": "billing.tasks.ask_about_methods",
        "schedule": 30.0,
        "options": {"expires": 30.0},
    },
    # Each card is told of once; to look each hour is to look at a new day soon after it begins.
    "tell-of-cards": {
        "task": "billing.tasks.tell_of_cards",
        "schedule": 3600.0,
        "options": {"expires": 3600.0},
    },
    "finish-refunds": {
        "task": "billing.tasks.finish_refunds",
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    "work-notices": {
        "task": "billing.tasks.work_notices",
        "schedule": 1.0,
        "options": {"expires": 1.0},
    },
    "fetch-provider-books": {
        "task": "billing.tasks.fetch_provider_books",
        "schedule": 1800.0,
        "options": {"expires": 1800.0},
    },
    "empty-notices": {"task": "billing.tasks.empty_notices", "schedule": 3600.0},
    "settle-sandbox": {
        "task": "billing.ways.sandbox.tasks.settle",
        "schedule": 2.0,
        "options": {"expires": 2.0},
    },
    "send-sandbox-notices": {
        "task": "billing.ways.sandbox.tasks.send_notices",
        "schedule": 1.0,
        "options": {"expires": 1.0},
    },
    "forget-reservations": {"task": "billing.tasks.forget_reservations", "schedule": 3600.0},
    "sweep-fapiao": {
        "task": "billing.tasks.sweep_fapiao",
        "schedule": 60.0,
        "options": {"expires": 60.0},
    },
    "measure-figures": {
        "task": "billing.tasks.measure_figures",
        "schedule": 300.0,
        "options": {"expires": 300.0},
    },
    "price-usage": {
        "task": "billing.tasks.price_usage",
        "schedule": 3600.0,
        "options": {"expires": 3600.0},
    },
    "keep-partitions": {"task": "billing.tasks.keep_partitions", "schedule": 3600.0},
    "forget-answers": {"task": "subscriptions.tasks.forget_answers", "schedule": 3600.0},
    "dispatch-events": {
        "task": "subscriptions.tasks.dispatch_events",
        "schedule": 2.0,
        "options": {"expires": 2.0},
    },
    "send-webhooks": {
        "task": "subscriptions.tasks.send_webhooks",
        "schedule": 5.0,
        "options": {"expires": 5.0},
    },
    "send-emails": {
        "task": "subscriptions.tasks.send_emails",
        "schedule": 5.0,
        "options": {"expires": 5.0},
    },
    "send-texts": {
        "task": "subscriptions.tasks.send_texts",
        "schedule": 5.0,
        "options": {"expires": 5.0},
    },
    "tell-expiries": {
        "task": "subscriptions.tasks.tell_expiries",
        "schedule": 600.0,
        "options": {"expires": 600.0},
    },
    "tell-alerts": {
        "task": "subscriptions.tasks.tell_alerts",
        "schedule": 30.0,
        "options": {"expires": 30.0},
    },
    "forget-misses": {"task": "subscriptions.tasks.forget_misses", "schedule": 3600.0},
    "forget-events": {"task": "subscriptions.tasks.forget_events", "schedule": 3600.0},
}

# Where Stripe is, for those who have one of their own to try things on.
STRIPE_API = env.str("STRIPE_API", default="")
# A company that only plays to take payments, for operators without a real one. It grants for
# nothing: on a database of its own a platform has it only where that is said.
SANDBOX_PAYMENTS = env.bool("SANDBOX_PAYMENTS", default="DATABASE_URL" not in env)
# Hosts and networks that webhooks may be sent to although they are not public, without TLS and on
# any port: `hooks.internal,10.20.0.0/16`; and the ports that all others may be called on.
WEBHOOK_ALLOWED = env.list("WEBHOOK_ALLOWED", default=[])
WEBHOOK_PORTS = [int(port) for port in env.list("WEBHOOK_PORTS", default=["443", "8443"])]

# What the ids of e-mails end with.
NOTICE_DOMAIN = urlsplit(PUBLIC_URL).hostname or "localhost"
EMAIL_TIMEOUT = 10
SMS_BACKEND = env.str("SMS_BACKEND", default="subscriptions.notices.sms.Console")
SMS_FILE = env.str("SMS_FILE", default=str(DATA / "sms.txt"))
SMS_URL = env.str("SMS_URL", default="")
SMS_TOKEN = env.str("SMS_TOKEN", default="")

# Who talks to the tax platform, and where the default one, which talks in files, keeps them.
FAPIAO_PROVIDER = env.str("FAPIAO_PROVIDER", default="billing.fapiao.providers.FileProvider")
FAPIAO_FOLDER = env.str("FAPIAO_FOLDER", default=str(DATA / "fapiao"))

# Requests and tokens a minute are counted here: any Valkey or Redis, the broker's where it is one.
RATE_LIMIT_URL = embedded.redis_url(env.str("RATE_LIMIT_URL", default=BROKER_URL))
RATE_LIMIT_PREFIX = env.str("RATE_LIMIT_PREFIX", default="rate")
# Attempts to sign in, too; where there is no such server, by each process for itself.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": RATE_LIMIT_URL,
        "KEY_PREFIX": f"{RATE_LIMIT_PREFIX}:cache",
    }
    if urlsplit(RATE_LIMIT_URL).scheme in ("redis", "rediss", "unix")
    else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", default="INFO")},
    "loggers": {
        # It would log a line for each request of a replay.
        "httpx": {"level": "WARNING"},
        # It warns of each pipeline that ends in an error, which is raised as well.
        "psycopg": {"level": "ERROR"},
    },
}
