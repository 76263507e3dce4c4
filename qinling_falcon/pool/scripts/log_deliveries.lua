-- log_deliveries: adds deliveries to the logs of their webhooks.
-- ARGV    2 how many a log keeps  3 after how many ms a log expires  4… pairs of (webhook, delivery), the oldest first
-- writes  deliveries:<webhook>

local logs = {}
for at = 4, #ARGV, 2 do
  local log = deliveries_to(ARGV[at])
  logs[log] = true
  call('LPUSH', log, ARGV[at + 1])
end
for log in pairs(logs) do
  call('LTRIM', log, 0, tonumber(ARGV[2]) - 1)
  call('PEXPIRE', log, ARGV[3])
end
