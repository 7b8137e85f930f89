-- Brings dead letters back: they stay where they are, and wait for their partition's owner.
-- KEYS: group, dead letters, runs, of each partition what was brought back and what holds keys ..
-- ARGV: run or '', time, a second or 0, most that a partition holds, then numbers, their partitions and positions ..
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'gone'}
end
local run, at, rate, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local total, next_due = 0, 0
if run ~= '' then
  local known = redis.call('HGET', KEYS[3], run)
  if not known then return {'unknown'} end
  total, next_due = string.match(known, '^(%d+) (%d+)$')
  total, next_due = tonumber(total), tonumber(next_due)
end
local count, full, first = 0, 0, math.max(at, next_due)
local waits = {}
for i = 5, #ARGV, 3 do
  local number, partition = ARGV[i], tonumber(ARGV[i + 1])
  local back, held = KEYS[4 + 2 * partition], KEYS[5 + 2 * partition]
  waits[partition] = waits[partition] or redis.call('HLEN', back)
  if waits[partition] >= most then
    full = 1
    break
  end
  local there = redis.call('XRANGE', KEYS[2], number .. '-0', number .. '-0')[1]
  if there and redis.call('HEXISTS', back, number) == 0 then
    if run == '' then
      run = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'runs', 1))
      redis.call('HDEL', KEYS[3], string.format('%.0f', tonumber(run) - 100))
    end
    local due = 0
    if rate > 0 then due = first + math.floor(count * 1000 / rate) end
    redis.call('HSET', back, number, string.format('%s %s 0 0 %.0f 0 -', run, ARGV[i + 2], due))
    redis.call('HDEL', held, number)
    waits[partition] = waits[partition] + 1
    count = count + 1
  end
end
local lasts = 0
if count > 0 then
  if rate > 0 then
    lasts = first - at + math.floor((count - 1) * 1000 / rate)
    next_due = first + math.floor(count * 1000 / rate)
  end
  redis.call('HSET', KEYS[3], run, string.format('%.0f %.0f', total + count, next_due))
  redis.call('HINCRBY', KEYS[1], 'backs', count)
  changed(KEYS[1])
end
return {'done', run, count, lasts, full}
