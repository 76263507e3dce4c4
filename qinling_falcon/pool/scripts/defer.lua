-- defer: makes calls take other warm workers of the runtime before these.
-- ARGV    2 runtime  3… warm workers
-- writes  warm:<runtime>

for at = 3, #ARGV do call('ZADD', P .. 'warm:' .. ARGV[2], 'XX', now, ARGV[at]) end
return 1
