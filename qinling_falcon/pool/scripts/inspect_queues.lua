-- inspect_queues: a page of the queues.
-- ARGV    2 holder, empty at first  3 cursor  4 how many of the queues at the cursor earlier pages had  5 the most
--         queues to return
-- returns JSON: the queues, and holder, cursor and number for the next page if there is one
-- promises  a queue is shown once: among the entries of the process whose call has waited the longest in it
-- cost      at most LOOKS times SSCAN, and ten commands for each entry

local COUNT = 100  -- always the same, so that a cursor stands for the same queues
local LOOKS = 20

local function show_queue(queue, entries)
  local runtime, target, project_id, kind = parse_queue(queue)
  local counts = read_counts(target, project_id, runtime)
  local waiting, processes = 0, 0
  for _, count in ipairs(call('HVALS', P .. 'counts:' .. queue)) do
    waiting, processes = waiting + count, processes + 1
  end
  local shown = {
    runtime = runtime, target = target, project = project_id, kind = kind, waiting = waiting, processes = processes,
    oldest_ms = math.max(0, now - tonumber(entries[2])), workers = held_by(target), state = 'waiting',
  }
  if call('ZSCORE', P .. 'escalated:' .. runtime, queue) then
    shown.state = 'escalated'
  elseif call('ZSCORE', P .. 'blocked:project:' .. project_id, queue) then
    shown.state = 'blocked'
    for _, limit in ipairs({'version', 'function', 'project', 'runtime'}) do
      if is_reached(counts, limit) then
        shown.limit, shown.limit_is, shown.used = limit, counts[limit .. '_limit'], counts[limit .. 's']
        break
      end
    end
  end
  return shown
end

local holders, seen = {}, {}
for _, set in ipairs({HOLDERS, FORMER}) do
  for _, holder in ipairs(call('ZRANGE', set, 0, -1)) do
    if holder >= ARGV[2] and not seen[holder] then
      seen[holder] = true
      holders[#holders + 1] = holder
    end
  end
end
table.sort(holders)

local queues, most = {}, tonumber(ARGV[5])
local at, cursor, first = 1, ARGV[3], tonumber(ARGV[4])
if holders[1] ~= ARGV[2] then cursor, first = '0', 0 end
for _ = 1, LOOKS do
  local holder = holders[at]
  if not holder then break end
  local found = call('SSCAN', ENTRIES_OF .. holder, cursor, 'COUNT', COUNT)
  while first < #found[2] and #queues < most do
    first = first + 1
    local entries = call('ZRANGE', P .. 'queue:' .. found[2][first], 0, 0, 'WITHSCORES')
    if entries[1] == holder then queues[#queues + 1] = show_queue(found[2][first], entries) end
  end
  if first < #found[2] then break end
  cursor, first = found[1], 0
  if cursor == '0' then at = at + 1 end
  if #queues == most then break end
end
local answer = {queues = queues}
if holders[at] then answer.holder, answer.cursor, answer.number = holders[at], cursor, first end
return cjson.encode(answer)
