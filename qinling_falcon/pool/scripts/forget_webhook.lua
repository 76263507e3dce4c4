-- forget_webhook: removes what Redis has of a webhook that was deleted.
-- ARGV    2 webhook
-- writes  deliveries:<webhook>, refusals:<webhook>, bucket:<webhook>

return call('DEL', deliveries_to(ARGV[2]), refusals_of(ARGV[2]), bucket_of(ARGV[2]))
