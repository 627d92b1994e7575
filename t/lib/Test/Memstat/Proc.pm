# What /proc says of a process: an independent reading to hold an answer against.
package Test::Memstat::Proc;

use strict;
use warnings;

use Exporter 'import';
use POSIX ();
use Time::HiRes ();

our @EXPORT_OK = qw(children cpu_time maps milliseconds open_files page_size proc_status read_file threads uptime);

sub read_file {
    my ($path) = @_;
    open my $file, '<', $path or return undef;
    local $/;
    return scalar <$file>;
}

sub page_size { return POSIX::sysconf(POSIX::_SC_PAGESIZE()) }

# The pids of a process's children that still run, in order.
sub children {
    my ($parent) = @_;
    my @children;
    for my $stat (glob '/proc/[0-9]*/stat') {
        my $text = read_file($stat) // next;
        my ($pid, $state, $ppid) = $text =~ /^(\d+) \(.*\) (\S) (\d+)/s or next;
        push @children, $pid if $ppid == $parent && $state ne 'Z';
    }
    @children = sort { $a <=> $b } @children;
    return @children;
}

# /proc/PID/status, sizes in bytes; an empty list for a process that is gone.
sub proc_status {
    my ($pid) = @_;
    my %status;
    for (split /\n/, read_file("/proc/$pid/status") // '') {
        my ($name, $value) = /^(\w+):\s*(.*?)\s*$/ or next;
        $status{$name} = $value =~ /^(\d+) kB$/ ? $1 * 1024 : $value;
    }
    return %status;
}

# /proc/PID/maps, a hash each: from, to, size, rights, inode, path.
sub maps {
    my ($pid) = @_;
    no warnings 'portable';
    my @maps;
    for (split /\n/, read_file("/proc/$pid/maps") // '') {
        my ($from, $to, $rights, $inode, $path) = /^(\w+)-(\w+) (\S+) \w+ \S+ (\d+)\s*(.*)$/ or next;
        ($from, $to) = map { hex } $from, $to;
        push @maps,
            { from => $from, to => $to, size => $to - $from,
              rights => $rights, inode => $inode, path => $path };
    }
    return @maps;
}

# The threads of a process, the main one included.
sub threads {
    my ($pid) = @_;
    my @threads = glob "/proc/$pid/task/[0-9]*";
    return scalar @threads;
}

# What the open descriptors of a process are, such as "anon_inode:[eventfd]", in order.
sub open_files {
    my ($pid) = @_;
    my @files = sort grep { defined } map { readlink } glob "/proc/$pid/fd/*";
    return @files;
}

# How long the main thread of a process has been on a processor, in seconds: what something costs on a
# machine that is busy with other things, too.
sub cpu_time {
    my ($pid) = @_;
    my ($nanoseconds) = split ' ', read_file("/proc/$pid/schedstat") // return;
    return $nanoseconds / 1e9;
}

# A clock, in milliseconds: what lies between two readings happened within their difference.
sub milliseconds { return 1000 * Time::HiRes::clock_gettime(Time::HiRes::CLOCK_MONOTONIC()) }

# Since the process started, in seconds.
sub uptime {
    my ($pid) = @_;
    my ($since_boot) = split ' ', read_file('/proc/uptime');
    my @fields = split ' ', (read_file("/proc/$pid/stat") // return) =~ s/^.*\) //sr;
    return $since_boot - $fields[19] / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

1;
