# bundle exec puma -C config/puma.rb

# As Rails writes it.
threads_count = ENV.fetch("RAILS_MAX_THREADS", 3)
threads threads_count, threads_count
port ENV.fetch("PORT", 3000)

# For phased: the inherited socket instead of that port, no queue of accepted connections, and no `workers`, which are slots.
bind_to_activated_sockets "only"
queue_requests false
