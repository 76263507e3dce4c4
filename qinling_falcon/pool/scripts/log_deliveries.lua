-- log_deliveries: adds deliveries to the logs of their webhooks.
-- ARGV    2 how many a log keeps  3 after how many ms a log expires
--         4… triples of (webhook, 'refused' or '', delivery), the oldest first
-- writes  deliveries:<webhook>, refusals:<webhook>

local logs = {}
for at = 4, #ARGV, 3 do
  local log = ARGV[at + 1] == '' and deliveries_to(ARGV[at]) or refusals_of(ARGV[at])
  logs[log] = true
  call('LPUSH', log, ARGV[at + 2])
end
for log in pairs(logs) do
  call('LTRIM', log, 0, tonumber(ARGV[2]) - 1)
  call('PEXPIRE', log, ARGV[3])
end
